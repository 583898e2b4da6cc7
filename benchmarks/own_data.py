"""Walk through docs/own-data.md on scikit-learn's digits, and print what its commands print.

    python -m benchmarks.own_data

Clones HEAD into a temporary folder and gives it the first 1,000 of the digits, 8 x 8 pixels of
0 to 16, times 255 / 16 and rounded, as PNG files in a folder per class; then the rest. Every output
of the page comes from here.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from cnn.errors import UserError, run
from tools.verify import clone, environment_for_clone

FIRST = 1000
RAW = "data/raw/digits"


def write(folder: Path, numbers: range) -> None:
    """Write the digits of these numbers into the folders of their classes."""
    digits = load_digits()
    for number in numbers:
        pixels = np.uint8((digits.images[number] * 255 / 16).round())
        path = folder / str(digits.target[number]) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def show(folder: Path, *commands: str) -> None:
    """Run commands, as typed, and print them with what they print."""
    # scikit-learn sets some of OpenMP's switches in its process.
    environment = {k: v for k, v in environment_for_clone().items() if not k.startswith("KMP_")}
    for command in commands:
        print(f"$ {command}", flush=True)
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment)
        if done.returncode:
            raise UserError(f"'{command}' failed (exit code {done.returncode})")


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        here, more = Path(name, "clone"), Path(name, "more")
        clone(Path(), here)
        local = f"[core]\n    site_cache_dir = {here}/.dvc/tmp/site\n"
        (here / ".dvc/config.local").write_text(local)
        write(here / RAW, range(FIRST))
        write(more, range(FIRST, len(load_digits().target)))
        show(
            here,
            f"dvc add {RAW}",
            f"git add {RAW}.dvc data/raw/.gitignore",
            f"sed -i 's|raw: data/raw/published.npz|raw: {RAW}|' params.yaml",
            "dvc repro",
            "git add . && git commit --quiet -m 'My digits, first version' && git tag v1",
            f"cp -r {more}/* {RAW}",
            "dvc diff",
            f"dvc add {RAW}",
            "dvc repro",
            "git add . && git commit --quiet -m '797 more digits'",
            "dvc metrics diff v1",
            "python -m tools.compare v1 HEAD",
            "dvc plots diff v1 HEAD",
            f"python -m tools.predict {more}/3/1004.png {more}/8/1015.png",
            "git checkout --quiet v1",
            "dvc checkout",
            "dvc status",
        )


if __name__ == "__main__":
    raise SystemExit(run(main))
