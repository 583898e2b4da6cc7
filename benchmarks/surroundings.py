"""Run the whole pipeline in surroundings that must not change a byte, and compare with dvc.lock.

    python -m benchmarks.surroundings [--only WORD]

Clones HEAD for each, runs every stage there with an empty cache and prints a line: how many outputs
have the recorded bytes. Exit code 1 if one has not. Needs faketime and the locales de_DE.UTF-8 and
tr_TR.UTF-8 (Debian: faketime, locales); raw data comes from data/raw/, checked by its hash.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import yaml

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
        f"chmod -R a-w stages tools params.yaml dvc.yaml; {REPRO}",
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


def obtained(folder: Path) -> dict[str, str]:
    """Return the outputs' hashes of a run; an experiment's are in its own commit."""
    shown = subprocess.run(
        ["dvc", "exp", "list", "--rev", "HEAD", "--name-only"],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "here" in shown:
        name = subprocess.run(
            ["git", "for-each-ref", "--format=%(refname)", "refs/exps/**/here"],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        lock = subprocess.run(
            ["git", "show", f"{name}:dvc.lock"],
            cwd=folder, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    else:
        lock = (folder / "dvc.lock").read_text(encoding="utf-8")
    return outputs(yaml.safe_load(lock)["stages"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="surroundings whose name holds this word")
    arguments = parser.parse_args()
    recorded = outputs(yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"])
    base = environment_for_clone(Path("data/raw"))
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
            clone(Path(), top / "clone")
            done = subprocess.run(
                ["bash", "-c", command], cwd=top / "clone", env=base | variables,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            found = obtained(top / "clone")
            same = sum(found.get(path) == md5 for path, md5 in recorded.items())
            failed += done.returncode != 0 or same < len(recorded)
            note = "" if done.returncode == 0 else f"  exit code {done.returncode}: {done.stderr}"
            print(f"{name:<42} {same} of {len(recorded)} outputs the same{note}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
