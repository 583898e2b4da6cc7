"""Let `dvc plots` draw without a network, in this clone: Vega's scripts stand in the page itself.

    python -m tools.offline_plots       (or `make offline-plots`, which installs what it needs)

Reads .dvc/plots/page.html, and the scripts from the package vl-convert-python. Writes
.dvc/offline.html and its name into .dvc/config.local; Git ignores both. To undo it:
`dvc config --local --unset plots.html_template`.
"""

import argparse
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.files import atomic_write
from cnn.base.program import run

PAGE = Path(".dvc/plots/page.html")
OFFLINE_PAGE = Path(".dvc/offline.html")
# Makes it certain that nothing is fetched but the pictures next to the page. Vega compiles its
# expressions, hence unsafe-eval.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src file: data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'\">"
)


def vega_scripts() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which defines `vegaEmbed`."""
    try:
        from vl_convert import javascript_bundle
    except ModuleNotFoundError:
        raise UserError(
            "package vl-convert-python is missing; `make offline-plots` installs it"
        ) from None
    return javascript_bundle()


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    try:
        page = PAGE.read_text(encoding="utf-8")
        page = page.replace("{scripts}", f"{POLICY}\n<script>{vega_scripts()}</script>")
        with atomic_write(OFFLINE_PAGE) as path:
            path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; run it where dvc.yaml is") from None

    from dvc.cli import main as dvc

    if dvc(["config", "--local", "plots.html_template", OFFLINE_PAGE.name]):
        raise UserError(".dvc/config.local: DVC could not set plots.html_template, as said above")
    print(f"`dvc plots` draws without a network now; each page holds {len(page) / 1e6:.1f} MB more")


if __name__ == "__main__":
    raise SystemExit(run(main))
