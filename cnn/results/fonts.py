"""Which fonts show a name: DejaVu Sans, which Matplotlib brings, and for other scripts others.

Names that DejaVu Sans shows, such as Latin, Greek, Cyrillic and Arabic ones, are drawn to the same
bytes everywhere. Others are drawn by a font of the environment or, if it has none, of the system.
"""

import sysconfig
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace

import matplotlib
from matplotlib.font_manager import FontEntry, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

DEJAVU = "DejaVu Sans"
LAST_RESORT = "Last Resort"  # Matplotlib's own, of boxes


def is_wide(character: str) -> bool:
    """Tell whether a character takes two columns, as Chinese, Japanese and Korean ones do."""
    return unicodedata.east_asian_width(character) in "WF"


def show_names(names: Iterable[str]) -> str:
    """Have Matplotlib draw `names` by fonts that have their characters.

    Returns
    -------
    A note on the characters that no font here has, "" if there are none. They are drawn as boxes,
    without a warning of Matplotlib's for each.
    """
    dejavu = next(each for each in fontManager.ttflist if _is_regular(each) and each.name == DEJAVU)
    wanted = _lacking(dejavu, set().union(*names))
    families = [DEJAVU]
    for font in _fallbacks(wanted):
        wanted = _lacking(font, wanted)
        # By its own name another file might be found. In bold too: titles ask for it.
        families.append(f"{font.fname}:{font.index}")
        weights = (replace(font, name=families[-1], weight=weight) for weight in (400, 700))
        fontManager.ttflist.extend(weights)
    matplotlib.rcParams["font.family"] = families
    if not wanted:
        return ""
    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    shown, more = "".join(sorted(wanted)[:10]), " and others" if len(wanted) > 10 else ""
    packages = " and ".join(sorted(set(map(_package, wanted))))
    return (
        f"no font here has {shown}{more}: boxes stand for them in the pictures; install Debian's "
        f"{packages}, or put another font's file into ~/.local/share/fonts"
    )


def _is_regular(font: FontEntry) -> bool:
    return font.style == "normal" and font.weight == 400


def _lacking(font: FontEntry, characters: set[str]) -> set[str]:
    """Return the characters that a font does not have; all, if it cannot be read."""
    try:
        face = FT2Font(font.fname, face_index=font.index)
    except (OSError, RuntimeError):  # Matplotlib's list of fonts may be older than the files
        return characters
    return {each for each in characters if not face.get_char_index(ord(each))}


def _fallbacks(wanted: set[str]) -> Iterator[FontEntry]:
    """Yield fonts that have `wanted` together, as far as there are any; the best one first."""
    packages = sysconfig.get_path("purelib")
    kana = any("HIRAGANA" in name or "KATAKANA" in name for name in map(_name, wanted))
    region = "JP" if kana else "KR" if any("HANGUL" in _name(each) for each in wanted) else "SC"
    fonts = _found(packages) if wanted else []
    while wanted and fonts:
        # Those of the environment come first, of which a lock file says the bytes.
        best = min(
            fonts,
            key=lambda font: (
                len(_lacking(font, wanted)),
                not font.fname.startswith(packages),
                "Sans" not in font.name,
                "Mono" in font.name,
                not font.name.endswith(region),  # one character, drawn in several ways
                font.name,
                font.fname,
            ),
        )
        left = _lacking(best, wanted)
        if left == wanted:
            return
        yield best
        wanted = left


def _found(packages: str) -> list[FontEntry]:
    """Return the upright fonts of the environment and of the system, also new ones."""
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted({*findSystemFonts([packages]), *findSystemFonts()} - known):
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError, ValueError):  # damaged, or of pixels
            continue
    return [
        font
        for font in fontManager.ttflist
        if _is_regular(font) and not font.name.startswith(LAST_RESORT)
    ]


def _name(character: str) -> str:
    return unicodedata.name(character, "")


def _package(character: str) -> str:
    """Return the Debian package of a font for a character."""
    if unicodedata.category(character).startswith("S"):
        return "fonts-symbola"
    return "fonts-noto-cjk" if is_wide(character) else "fonts-noto-core"
