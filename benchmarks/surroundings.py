"""Run the whole pipeline in surroundings that must not change a byte, and compare with dvc.lock.

    python -m benchmarks.surroundings [--only WORD] [--debian FOLDER]

Clones HEAD for each, runs every stage there with an empty cache and prints one line: how many
outputs have the recorded bytes. Exit code 1 if one has not. fetch takes the published data from
data/raw/, checked against its hash.

Needs faketime and the locales de_DE.UTF-8 and tr_TR.UTF-8 (Debian: faketime, locales). Other
Pythons are those that run as `python3.12` and `python3.13`, and the system's own. FOLDER is a
Debian 13, with its own Python, glibc and zlib, that root makes and enters so:

    debootstrap --include=ca-certificates,git,make,python3-venv trixie FOLDER
    mount --bind /proc FOLDER/proc
    cp -r /etc/pip.conf FOLDER/etc/     # where pip has another index; its certificates likewise
"""

import json
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.commands import RAW
from benchmarks.harness import bare_parser
from cnn.base.errors import UserError
from cnn.base.params import read_yaml
from cnn.base.program import environment_with_python, run
from cnn.published.sources import variable
from tools.verify import clone, outputs

REPRO = "dvc repro --force --quiet"
LOCKED = f'make --silent .venv/built && PATH="$PWD/.venv/bin:$PATH" {REPRO}'  # with what is locked


class Surroundings(NamedTuple):
    """A shell command that runs the pipeline in a clone, and variables set for it."""

    command: str
    variables: dict[str, str] = {}
    needs: str = "true"  # a command that fails where these surroundings are not to be had


SURROUNDINGS = {
    "deep folder, blanks, Unicode": Surroundings(REPRO),
    "another, empty HOME": Surroundings('export HOME="$PWD/../home"; mkdir "$HOME"; ' + REPRO),
    "TZ Kiritimati, LANG C": Surroundings(REPRO, {"TZ": "Pacific/Kiritimati", "LC_ALL": "C"}),
    "LANG de_DE": Surroundings(REPRO, {"LC_ALL": "de_DE.UTF-8"}),
    "LANG tr_TR, umask 077": Surroundings(f"umask 077; {REPRO}", {"LC_ALL": "tr_TR.UTF-8"}),
    "PYTHONHASHSEED 12345, read-only sources": Surroundings(
        f"chmod -R a-w cnn stages tools handwriting params.yaml dvc.yaml; {REPRO}",
        {"PYTHONHASHSEED": "12345", "PYTHONDONTWRITEBYTECODE": "1"},
    ),
    "in the year 2040": Surroundings(
        f"faketime '2040-02-29 23:59:00' {REPRO}",
        {"SOURCE_DATE_EPOCH": "2209075140", "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
    ),
    "one core": Surroundings(f"taskset --cpu-list 0 {REPRO}"),
    "two cores": Surroundings(f"taskset --cpu-list 0,1 {REPRO}"),
    "64 cores reported": Surroundings(REPRO, {"PYTHONPATH": "../cores"}),
    "oldest kernels of numpy and OpenBLAS": Surroundings(
        REPRO,
        {
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
            "OPENBLAS_CORETYPE": "Prescott",
        },
    ),
    "OpenBLAS' kernels for Sandy Bridge": Surroundings(REPRO, {"OPENBLAS_CORETYPE": "Sandybridge"}),
    "odd Keras and matplotlib configuration": Surroundings(
        f"cp -r ../configuration/. .; {REPRO}",
        {"MPLBACKEND": "svg", "MPLCONFIGDIR": "../configuration", "KERAS_HOME": "../configuration"},
    ),
    "flags of compilers, switches of libraries": Surroundings(
        LOCKED,
        {
            "CFLAGS": "-ffast-math -march=native",
            "CPATH": "/nowhere",
            "OMP_NUM_THREADS": "1",
            "KERAS_BACKEND": "jax",
        },
    ),
    "kernels for AVX2": Surroundings(REPRO, {"CNN_KERNELS": "v3"}),
    "dvc exp run --temp": Surroundings("dvc exp run --force --temp --name here --quiet"),
    "dvc queue": Surroundings(
        "dvc exp run --force --queue --name here --quiet && dvc queue start --jobs 1 --quiet && "
        "while ! dvc queue status | grep -Eq 'Success|Failed'; do sleep 2; done"
    ),
    **{
        name: Surroundings(LOCKED, {"PYTHON": name}, needs=f"{name} -V")
        for name in ("python3.12", "python3.13", "/usr/bin/python3")
    },
}
# $ROOT is the folder, $CLONE the path that the clone has inside it.
DEBIAN = Surroundings(
    'chroot "$ROOT" env --chdir="$CLONE" HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin '
    f"bash -c {shlex.quote(LOCKED)}",
    needs='test "$(id -u)" = 0 -a -e "$ROOT/proc/self"',
)


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


def prepare(top: Path) -> None:
    """Write into `top` what some surroundings name: odd configuration, a Python with 64 cores."""
    odd, cores = top / "configuration", top / "cores"
    odd.mkdir()
    (odd / "matplotlibrc").write_text("font.size: 30\nfigure.facecolor: red\n")
    keras = {"floatx": "float16", "backend": "jax", "image_data_format": "channels_first"}
    (odd / "keras.json").write_text(json.dumps(keras | {"epsilon": 0.1}))
    cores.mkdir()  # Python imports a module of this name before all else
    (cores / "sitecustomize.py").write_text(
        "import os\n\nos.cpu_count = lambda: 64\nos.sched_getaffinity = lambda _: {*range(64)}\n"
    )


def compare(name: str, given: Surroundings, root: Path, recorded: dict[str, str]) -> bool:
    """Run the pipeline in these surroundings, below the folder `root`, and print one line.

    Returns
    -------
    Whether all outputs are as recorded, or these surroundings are not to be had.
    """
    dataset = read_yaml("params.yaml")["fetch"]["dataset"]
    variables = given.variables | {"ROOT": str(root)}
    shell = {"env": environment_with_python() | variables, "capture_output": True, "text": True}
    if subprocess.run(["bash", "-c", given.needs], check=False, **shell).returncode:
        print(f"{name:<42} not here: {given.needs}", flush=True)
        return True
    with tempfile.TemporaryDirectory(dir=None if root == Path("/") else root / "tmp") as temporary:
        top = Path(temporary, "some where", "tief/in/den Wäldern" if "deep" in name else "")
        (top / "raw").mkdir(parents=True)
        shutil.copyfile(RAW, top / "raw" / f"{dataset}.npz")
        prepare(top)
        clone(Path(), top / "clone")
        inside = Path("/", top.relative_to(root))
        shell["env"] |= {variable(dataset): str(inside / "raw"), "CLONE": str(inside / "clone")}
        done = subprocess.run(
            ["bash", "-c", given.command], cwd=top / "clone", check=False, **shell
        )
        found = obtained(top / "clone")
    same = sum(found.get(path) == md5 for path, md5 in recorded.items())
    note = "" if done.returncode == 0 else f"  exit code {done.returncode}: {done.stderr}"
    print(f"{name:<42} {same} of {len(recorded)} outputs the same{note}", flush=True)
    return done.returncode == 0 and same == len(recorded)


def main(argv: list[str] | None = None) -> int:
    parser = bare_parser(__doc__)
    parser.add_argument("--only", default="", metavar="WORD", help="those whose name holds it")
    parser.add_argument("--debian", type=Path, metavar="FOLDER", help="a Debian to enter as well")
    arguments = parser.parse_args(argv)
    if not RAW.is_file():
        raise UserError(f"{RAW}: is missing; run 'dvc repro fetch'")
    recorded = outputs(read_yaml("dvc.lock")["stages"])
    places = [(name, given, Path("/")) for name, given in SURROUNDINGS.items()]
    if arguments.debian:
        places.append(("Debian", DEBIAN, arguments.debian.absolute()))
    same = [compare(*place, recorded) for place in places if arguments.only in place[0]]
    return 0 if all(same) else 1


if __name__ == "__main__":
    raise SystemExit(run(main))
