"""Write which package versions the bytes of each stage depend on, out of requirements.txt.

    python -m tools.packages        (`make lock` runs it)

Writes packages/STAGE.txt, on which the stage depends in dvc.yaml: so a security fix of an HTTP
client trains nothing again, and a new TensorFlow does. Refuses an environment in which other
versions are installed than those that are locked.
"""

import argparse
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.files import read_text, write_text
from cnn.base.program import run

LOCKED = Path("requirements.txt")
FOLDER = Path("packages")
TRAINING = ("h5py", "keras", "numpy", "tensorflow")  # Keras and TensorFlow: the engine `keras`
# What computes, writes or draws the bytes of a stage's outputs.
BYTES = {
    "prepare": ("numpy", "pillow"),
    "train": TRAINING,
    "evaluate": (
        *TRAINING,
        "deflate",
        "kiwisolver",
        "matplotlib",
        "pandas",
        "scikit-learn",
        "scipy",
        "seaborn",
    ),
}


def locked(text: str) -> dict[str, str]:
    """Return {package: version} of a compiled requirements file."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE))


def contents(versions: dict[str, str]) -> dict[str, str]:
    """Return {stage: text of its file}."""
    return {
        stage: "".join(f"{name}=={versions[name]}\n" for name in sorted(names))
        for stage, names in BYTES.items()
    }


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    versions = locked(read_text(LOCKED))
    for stage, text in contents(versions).items():
        write_text(FOLDER / f"{stage}.txt", text)
    for name in sorted({name for names in BYTES.values() for name in names}):
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "none"
        if installed != versions[name]:
            raise UserError(
                f"{name}: {installed} is installed, {versions[name]} is locked; run 'make repro'"
            )


if __name__ == "__main__":
    raise SystemExit(run(main))
