"""The programs that the benchmarks run: training, the plain script, and the stages of dvc.yaml."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import ROOT
from cnn.base.errors import UserError
from cnn.base.files import write_json
from cnn.base.params import read_yaml

RAW = Path("data/raw/published.npz")


def ours(**settings: object) -> list[object]:
    """Return the command that trains as the stage does, with parameters of section `train`."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "benchmarks.our_training", *words]


def plain(folder: str, *flags: object) -> list[object]:
    """Return the command that runs the plain script, with `folder` for what it writes."""
    return [sys.executable, "-m", "benchmarks.plain_keras", RAW, folder, *flags]


def result_of(command: list[object]) -> dict[str, float]:
    """Run a program and return the JSON object on the last line that it prints.

    Raises
    ------
    UserError
        The program failed; with the last line of its standard error.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        reasons = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"'{shlex.join(words)}' failed: {reasons[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def write_params(path: Path, **sections: Mapping[str, object]) -> None:
    """Write params.yaml with other values in some sections, as JSON, which is YAML too."""
    params = read_yaml("params.yaml")
    write_json(path, params | {name: params[name] | dict(new) for name, new in sections.items()})


def stage_command(name: str, folder: Path, paths: Mapping[str, Path]) -> list[str]:
    """Return a stage's command in dvc.yaml with other paths, {flag: path}.

    `${section.key}` in it comes from the params.yaml in `folder`.

    Raises
    ------
    UserError
        The command has no such flag.
    """
    params = read_yaml(folder / "params.yaml")
    command = re.sub(
        r"\$\{(\w+)\.(\w+)\}",
        lambda match: str(params[match[1]][match[2]]),
        read_yaml(ROOT / "dvc.yaml")["stages"][name]["cmd"],
    )
    words = [sys.executable, *shlex.split(command)[1:]]
    for flag, path in paths.items():
        if flag not in words:
            raise UserError(f"dvc.yaml: the command of stage '{name}' has no {flag}")
        words[words.index(flag) + 1] = str(path.absolute())
    return words


def run_stage(name: str, folder: Path) -> None:
    """Run a stage as dvc.yaml does, but in `folder`, with the params.yaml that lies there.

    dvc.yaml's paths are relative, so what the stage writes lies in `folder` too.

    Raises
    ------
    UserError
        The stage failed; it has given the reason.
    """
    done = subprocess.run(
        stage_command(name, folder, {}),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise UserError(f"stage '{name}' failed (exit code {done.returncode})")
