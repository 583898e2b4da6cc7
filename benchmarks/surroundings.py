"""Run the whole pipeline in surroundings that must not change a byte, and compare with dvc.lock.

    python -m benchmarks.surroundings [--only WORD]

Clones HEAD for each, runs every stage there with an empty cache and prints a line: how many outputs
have the recorded bytes. Exit code 1 if one has not. Needs faketime and the locales de_DE.UTF-8 and
tr_TR.UTF-8 (Debian: faketime, locales). fetch takes the published data from data/raw/, checked
against its hash.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.rows import RAW
from cnn.errors import UserError, run
from cnn.params import read_yaml
from stages.fetch import variable
from tools.verify import clone, environment_for_clone, outputs

REPRO = "dvc repro --force --quiet"
# Name: shell command that runs the pipeline in the clone, then variables set for it.
SURROUNDINGS: dict[str, tuple[str, dict[str, str]]] = {
    "deep folder, blanks, Unicode": (REPRO, {}),
    "another, empty HOME": ('export HOME="$PWD/../home"; mkdir "$HOME"; ' + REPRO, {}),
    "TZ Kiritimati, LANG C": (REPRO, {"TZ": "Pacific/Kiritimati", "LC_ALL": "C"}),
    "LANG de_DE": (REPRO, {"LC_ALL": "de_DE.UTF-8"}),
    "LANG tr_TR, umask 077": (f"umask 077; {REPRO}", {"LC_ALL": "tr_TR.UTF-8"}),
    "PYTHONHASHSEED 12345, read-only sources": (
        f"chmod -R a-w cnn stages tools handwriting params.yaml dvc.yaml; {REPRO}",
        {"PYTHONHASHSEED": "12345", "PYTHONDONTWRITEBYTECODE": "1"},
    ),
    "in the year 2040": (
        f"faketime '2040-02-29 23:59:00' {REPRO}",
        {"SOURCE_DATE_EPOCH": "2209075140", "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
    ),
    "one core": (f"taskset --cpu-list 0 {REPRO}", {}),
    "odd Keras and matplotlib configuration": (
        f"cp -r ../configuration/. .; {REPRO}",
        {"MPLBACKEND": "svg", "MPLCONFIGDIR": "../configuration", "KERAS_HOME": "../configuration"},
    ),
    "switches of TensorFlow and oneDNN": (
        REPRO,
        {
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_DETERMINISTIC_OPS": "0",
            "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
            "OMP_NUM_THREADS": "1",
            "XLA_FLAGS": "--xla_cpu_enable_fast_math=true",
            "KERAS_BACKEND": "jax",
        },
    ),
    "dvc exp run --temp": ("dvc exp run --force --temp --name here --quiet", {}),
    "dvc queue": (
        "dvc exp run --force --queue --name here --quiet && dvc queue start --jobs 1 --quiet && "
        "while ! dvc queue status | grep -Eq 'Success|Failed'; do sleep 2; done",
        {},
    ),
}


def git(folder: Path, *words: str) -> str:
    """Return what a Git command in `folder` prints."""
    return subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def obtained(folder: Path) -> dict[str, str]:
    """Return the outputs' hashes of a run; an experiment's are in its own commit."""
    experiment = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps/**/here")
    if experiment:
        git(folder, "checkout", "--quiet", experiment, "--", "dvc.lock")
    return outputs(read_yaml(folder / "dvc.lock")["stages"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="surroundings whose name holds this word")
    arguments = parser.parse_args()
    recorded = outputs(read_yaml("dvc.lock")["stages"])
    dataset = read_yaml("params.yaml")["fetch"]["dataset"]
    if not RAW.is_file():
        raise UserError(f"{RAW}: is missing; run 'dvc repro fetch'")
    failed = 0
    for name, (command, variables) in SURROUNDINGS.items():
        if arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            top = Path(temporary, "some where", "tief/in/den Wäldern" if "deep" in name else "")
            top.mkdir(parents=True, exist_ok=True)
            odd = top / "configuration"
            odd.mkdir()
            (odd / "matplotlibrc").write_text("font.size: 30\nfigure.facecolor: red\n")
            keras = {"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}
            (odd / "keras.json").write_text(json.dumps(keras | {"epsilon": 0.1}))
            raw = top / "raw"
            raw.mkdir()
            (raw / f"{dataset}.npz").symlink_to(RAW.absolute())
            clone(Path(), top / "clone")
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=top / "clone",
                env=environment_for_clone() | {variable(dataset): str(raw)} | variables,
                capture_output=True,
                text=True,
                check=False,
            )
            found = obtained(top / "clone")
            same = sum(found.get(path) == md5 for path, md5 in recorded.items())
            failed += done.returncode != 0 or same < len(recorded)
            note = "" if done.returncode == 0 else f"  exit code {done.returncode}: {done.stderr}"
            print(f"{name:<42} {same} of {len(recorded)} outputs the same{note}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
