"""Names in any script are drawn by a font that has them, or one note says that there is none."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import FontProperties, findfont, fontManager

from cnn.results import figures, fonts


def make_font(path, characters: str, weight: int = 400):
    """Write a font whose characters are filled squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [f"g{number}" for number in range(len(characters))]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *names])
    font.setupCharacterMap(dict(zip(map(ord, characters), names, strict=True)))
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph()} | dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    font.setupOS2(usWeightClass=weight)
    font.setupPost()
    font.save(path)
    return str(path)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Let these fonts alone be on the system, given {name: characters}."""

    def call(**characters) -> dict[str, str]:
        paths = {name: make_font(tmp_path / f"{name}.ttf", has) for name, has in characters.items()}
        kept = [font for font in fontManager.ttflist if "mpl-data" in font.fname]
        monkeypatch.setattr(fontManager, "ttflist", kept)
        monkeypatch.setattr(
            fonts, "findSystemFonts", lambda where=None: [] if where else list(paths.values())
        )
        return paths

    yield call
    plt.close("all")


def fallbacks() -> list[str]:
    """Return the files of the fonts that stand behind DejaVu Sans."""
    first, *others = plt.rcParams["font.family"]
    assert first == "DejaVu Sans"
    return [str(findfont(FontProperties(family=[name]))) for name in others]


def pixels(text: str) -> np.ndarray:
    figure = plt.figure(figsize=(2, 1))
    figure.text(0.1, 0.1, text, fontweight="bold")
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., 0]


def test_latin_greek_cyrillic_and_arabic_names_need_no_other_font(monkeypatch):
    monkeypatch.setattr(fonts, "_found", None)  # a search would fail

    assert figures.set_style(["0", "Äpfel", "Ελληνικά", "Имя", "العربية", "$%#"]) == ""
    assert plt.rcParams["font.family"] == ["DejaVu Sans"]


def test_a_font_that_has_the_characters_draws_them_and_no_other_does(installed, caplog):
    paths = installed(Half="日", Sans="日本", Other="x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures.set_style(["日本", "b"]) == ""
        drawn = pixels("日本")

    assert not caplog.records
    assert fallbacks() == [paths["Sans"]]
    assert (drawn < 50).sum() > 400  # two squares; boxes are hollow
    latin = pixels("b")
    figures.set_style()
    np.testing.assert_array_equal(pixels("b"), latin)


def test_several_fonts_share_what_none_has_alone(installed):
    paths = installed(Thai="ไทย", Han="日本")

    assert figures.set_style(["ไทย", "日本"]) == ""
    assert set(fallbacks()) == set(paths.values())


def test_a_font_of_the_environment_comes_before_one_of_the_system(installed, monkeypatch, tmp_path):
    installed(A="日")
    (tmp_path / "packages").mkdir()
    own = make_font(tmp_path / "packages/Z.ttf", "日")
    system = fonts.findSystemFonts
    monkeypatch.setattr(fonts, "findSystemFonts", lambda where=None: [own] if where else system())
    monkeypatch.setattr(fonts.sysconfig, "get_path", lambda name: str(tmp_path / "packages"))

    assert figures.set_style(["日"]) == ""
    assert fallbacks() == [own]


@pytest.mark.parametrize(
    ("names", "shown", "packages"),
    [
        (["日本語", "ひらがな"], "がなひら日本語", "fonts-noto-cjk"),
        (["देव"], "दवे", "fonts-noto-core"),
        (["🥝", "한"], "한🥝", "fonts-noto-cjk and fonts-symbola"),
    ],
)
def test_without_a_font_there_is_one_note_and_no_warning(installed, names, shown, packages):
    installed(Other="x")
    with warnings.catch_warnings(record=True) as caught:
        note = figures.set_style(["plain", *names])
        pixels(" ".join(names))

    assert caught == []
    assert note == (
        f"no font here has {shown}: boxes stand for them in the pictures; install Debian's "
        f"{packages}, or put another font's file into ~/.local/share/fonts"
    )


def test_a_damaged_font_is_passed_over(installed, tmp_path, monkeypatch):
    paths = installed(Sans="日")
    bad = tmp_path / "bad.ttf"
    bad.write_bytes(b"no font")
    monkeypatch.setattr(
        fonts, "findSystemFonts", lambda where=None: [] if where else [str(bad), paths["Sans"]]
    )

    assert figures.set_style(["日"]) == ""
