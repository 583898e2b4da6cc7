"""Run a recipe, a named set of parameters in recipes/, as a DVC experiment of that name.

    python -m tools.recipe NAME [DVC'S OPTIONS]         (`make NAME` runs it)

A recipe stands on the other parameters as they are in params.yaml, except where DVC has left
another recipe there: what that one changed in section `train` is the commit's again.

Further words go to `dvc exp run`, such as `-S train.seed=7`; `--name` takes another name, `--queue`
queues it. An experiment of that name is replaced.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ruamel.yaml import YAML

from cnn.base.errors import UserError
from cnn.base.params import read_yaml
from cnn.base.program import environment_with_python, run
from tools.compare.revisions import git, read_texts

FOLDER, PARAMS = Path("recipes"), "params.yaml"


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


def on_commit(changes: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return changes of params.yaml, with what takes a recipe back that DVC has left there.

    Where section `train` is the commit's with a recipe upon it, whatever its seed, that recipe is
    no part of another. What else is not as committed was meant, and is named. The data stay as
    they are.
    """
    try:
        committed = YAML(typ="safe").load(*read_texts("HEAD", PARAMS))["train"]
    except UserError:  # no Git, so no experiment either
        return changes
    now, own = read_yaml(PARAMS)["train"], changes.get("train", {})
    other = {
        key: value for key, value in committed.items() if key not in own and now.get(key) != value
    }
    if not other:
        return changes
    taken: dict[str, object] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        left = load(path.stem).get("train", {})
        if left and committed | left | {"seed": now.get("seed")} == now:
            taken = {key: other.pop(key) for key in left if key in other}
            _note(taken, f"as committed, not as recipe {path.stem} left it")
            break
    _note(other, f"as in {PARAMS}, which is not as committed")
    return changes | {"train": taken | own} if taken else changes


def _note(keys: Iterable[str], remark: str) -> None:
    if named := ", ".join(f"train.{key}" for key in keys):
        print(f"note: {named}: {remark}", file=sys.stderr)


def words(changes: dict[str, dict[str, object]]) -> list[str]:
    """Return changes of parameters as `dvc exp run` takes them: -S section.key=value, in JSON."""
    return [
        word
        for section, values in changes.items()
        for key, value in values.items()
        for text in [json.dumps(value, ensure_ascii=False, separators=(",", ":"))]
        for word in ("-S", f"{section}.{key}={text}")
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="NAME", help="of a file in recipes/, without its ending")
    parser.add_argument("-n", "--name", help="of the experiment, if not the recipe's")
    arguments, more = parser.parse_known_args(argv)
    name = arguments.name or arguments.recipe
    git("rev-parse", "--git-dir")  # where there is none, this says so better than DVC
    settings = words(on_commit(load(arguments.recipe)))
    environment = environment_with_python()
    # DVC replaces no experiment in the workspace.
    remove = ["dvc", "exp", "remove", "--quiet", name]
    subprocess.run(remove, env=environment, capture_output=True, check=False)
    command = ["dvc", "exp", "run", "--name", name, *settings, *more]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(run(main))
