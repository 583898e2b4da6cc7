"""Run a recipe, a named set of parameters in recipes/, as a DVC experiment of that name.

    python -m tools.recipe NAME [DVC'S OPTIONS]         (`make NAME` runs it)

Further words go to `dvc exp run`, such as `-S train.seed=7`; `--name` takes another name, `--queue`
queues it. An experiment of that name is replaced.
"""

import argparse
import subprocess
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.params import read_yaml
from cnn.base.program import run
from tools.compare.revisions import git

FOLDER = Path("recipes")


def load(name: str, folder: Path = FOLDER) -> dict[str, dict[str, object]]:
    """Return {section: {key: value}} of a recipe.

    Raises
    ------
    UserError
        There is no recipe of that name, or it is not of that form.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
        raise UserError(f"{path}: is missing; choose one of {known}")
    document = read_yaml(path)
    if not isinstance(document, dict) or not all(
        isinstance(section, dict) for section in document.values()
    ):
        raise UserError(f"{path}: holds no sections of parameters; write it as the others")
    return document


def words(recipe: dict[str, dict[str, object]]) -> list[str]:
    """Return the recipe as `dvc exp run` takes it: -S section.key=value."""
    return [
        word
        for section, values in recipe.items()
        for key, value in values.items()
        for word in ("-S", f"{section}.{key}={str(value).replace(' ', '')}")
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="NAME", help="of a file in recipes/, without its ending")
    parser.add_argument("-n", "--name", help="of the experiment, if not the recipe's")
    arguments, more = parser.parse_known_args(argv)
    name = arguments.name or arguments.recipe
    settings = words(load(arguments.recipe))
    git("rev-parse", "--git-dir")  # where there is none, this says so better than DVC
    # DVC replaces no experiment in the workspace.
    subprocess.run(["dvc", "exp", "remove", "--quiet", name], capture_output=True, check=False)
    return subprocess.run(["dvc", "exp", "run", "--name", name, *settings, *more]).returncode


if __name__ == "__main__":
    raise SystemExit(run(main))
