"""Does another CPU give other bytes? Run the pipeline on emulated ones and compare every file.

    python -m benchmarks.machines [--cpus Haswell neoverse-n1 ...] [--steps 6] [--images 1000]
                                  [--jobs 1] [--arm FOLDER]

Runs `benchmarks.emulated` (all stages but fetch, the training cut to a few steps) on this machine
and then on each CPU that qemu-user imitates. Reads what `make repro` leaves and writes nothing.
Prints one line per CPU, and the progress on standard error. Exit code 1 if a byte differs or a run
fails.

An emulated CPU reports the features, family and caches of the real one, by which the kernels,
numpy and OpenBLAS choose how they compute. It has no AVX-512, whatever its name. An aarch64 needs a
userland of its own in FOLDER, with Debian's Python and PyPI's wheels, made by `--make-arm`, as root
(Debian: mmdebstrap, gcc-aarch64-linux-gnu).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import ROOT, bare_parser, count
from cnn.base.errors import UserError
from cnn.base.files import read_text
from cnn.base.program import run
from cnn.kernels import build
from tools import packages
from tools.repair import md5

QEMU, QEMU_ARM = "qemu-x86_64", "qemu-aarch64"
# Makers and generations of CPUs; Westmere has no AVX, `max` every feature that is emulated.
CPUS = ("Westmere", "Haswell", "Broadwell", "Skylake-Client", "EPYC-Rome", "EPYC-Milan", "max")
ARM_CPUS = ("cortex-a72", "neoverse-n1")
# What the stages import, of requirements.txt.
ARM_PACKAGES = (
    "annotated-types", "cloudpickle", "contourpy", "cycler", "deflate", "fonttools", "h5py",
    "joblib", "kiwisolver", "matplotlib", "narwhals", "numpy", "packaging", "pandas", "pillow",
    "psutil", "pydantic", "pydantic-core", "pyparsing", "python-dateutil", "ruamel-yaml",
    "scikit-learn", "scipy", "seaborn", "six", "threadpoolctl", "tqdm", "typing-extensions",
    "typing-inspection",
)  # fmt: skip
DEBIAN = "base-files,libc-bin,libc6,libgomp1,libstdc++6,python3,zlib1g"

Digests = dict[str, str]  # file: MD5


def runner(cpu: str, arm: Path | None) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts Python on an emulated CPU, and its environment.

    Raises
    ------
    UserError
        The emulator is missing or knows no such CPU, or there is no userland for it.
    """
    for name in (QEMU, QEMU_ARM):
        path = shutil.which(name)
        # It lists them and exits with 1.
        ask = [path, "-cpu", "help"] if path else ["true"]
        known = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split()
        if path and cpu in known and not (name == QEMU_ARM and arm is None):
            break
    else:
        raise UserError(
            f"{cpu}: is no CPU of {QEMU} or, with --arm, of {QEMU_ARM}, or they are missing; "
            "install qemu-user (Debian's package)"
        )
    if name == QEMU:
        # A variable may name the CPU to OpenBLAS, which is to ask the emulated one.
        variables = {key: value for key, value in os.environ.items() if "OPENBLAS" not in key}
        return [path, "-cpu", cpu, sys.executable], variables
    root, site = arm / "root", arm / "site"
    if not (root.is_dir() and site.is_dir()):
        raise UserError(f"{arm}: holds no userland; make it with --make-arm")
    # PYTHONHOME says where Python lies; all else is the emulator's to find in root.
    found = sorted(root.glob("usr/bin/python3.*[0-9]"))[0]
    variables = {"PYTHONHOME": root / "usr", "PYTHONPATH": f"{ROOT}:{site}", "HOME": root}
    variables |= {"PATH": "/nowhere", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [path, "-cpu", cpu, "-L", str(root), str(found)]
    return command, {key: str(value) for key, value in variables.items()}


def make_arm(folder: Path) -> None:
    """Make a userland of aarch64: Debian 12's Python, the locked wheels and the kernels."""
    root, site = folder / "root", folder / "site"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not root.is_dir():
            command = ["mmdebstrap", "--quiet", "--skip=check/qemu", "--architectures=arm64"]
            command += ["--variant=extract", f"--include={DEBIAN}", "bookworm", root]
            subprocess.run(command, check=True)
        versions = packages.locked(read_text(ROOT / "requirements.txt"))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "--no-deps"]
        pip += ["--only-binary=:all:", "--python-version=311", "--implementation=cp"]
        pip += ["--disable-pip-version-check", "--upgrade"]
        pip += [f"--platform=manylinux_2_{minor}_aarch64" for minor in (34, 28, 27, 26, 17)]
        pip += ["--platform=manylinux2014_aarch64"]
        subprocess.run([*pip, *(f"{name}=={versions[name]}" for name in ARM_PACKAGES)], check=True)
        command, variables = runner(ARM_CPUS[0], folder)
        ask = "from cnn.kernels import build; print(build.library('plain'))"
        asked = subprocess.run(
            [*command, "-c", ask], env=variables, capture_output=True, text=True, check=True
        )
        compiler = ["aarch64-linux-gnu-gcc", *build.FLAGS, *build.LIBRARY]
        build.compiled(compiler, [build.HERE / "network.c"], Path(asked.stdout.strip()))
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{folder}: no userland could be made: {error}") from None


def digests(command: Sequence[str], variables: Mapping[str, str], *size: int) -> Digests:
    """Return what `benchmarks.emulated` writes when it is run by a Python.

    Raises
    ------
    UserError
        It failed; with the last line that it printed.
    """
    steps, images = size
    with tempfile.TemporaryDirectory() as folder:
        words = [*command, "-u", "-m", "benchmarks.emulated", folder]
        words += ["--steps", str(steps), "--images", str(images)]
        # What the stages print shows the progress; the emulator warns once per thread of every
        # feature that it lacks.
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=dict(variables),
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            reasons = done.stderr.strip().splitlines() or ["no reason given"]
            raise UserError(f"exit code {done.returncode}: {reasons[-1]}")
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): md5(path) for path in files}


def verdict(reference: Digests, found: Digests) -> tuple[bool, str]:
    """Return whether a run has the files of `reference`, and in words which differ."""
    files = reference.keys() | found
    others = sorted(name for name in files if reference.get(name) != found.get(name))
    if others:
        return False, f"{len(others)} of {len(reference)} files differ: {', '.join(others)}"
    return True, f"all {len(reference)} files have the same bytes"


def main(argv: list[str] | None = None) -> int:
    parser = bare_parser(__doc__)
    parser.add_argument("--cpus", nargs="+", metavar="NAME")
    parser.add_argument("--steps", type=count, default=6, metavar="N", help="of the training")
    parser.add_argument("--images", type=count, default=1000, metavar="N", help="of the test")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="CPUs side by side")
    parser.add_argument("--arm", type=Path, metavar="FOLDER", help="where aarch64's userland is")
    parser.add_argument("--make-arm", action="store_true", help="make it there first")
    arguments = parser.parse_args(argv)
    arm, size = arguments.arm, (arguments.steps, arguments.images)
    if arguments.make_arm:
        if arm is None:
            raise UserError("--make-arm: needs --arm FOLDER")
        make_arm(arm.absolute())
    cpus = arguments.cpus or (*CPUS, *(ARM_CPUS if arm else ()))
    runners = {cpu: runner(cpu, arm and arm.absolute()) for cpu in cpus}
    try:
        reference = digests([sys.executable], os.environ, *size)
    except UserError as error:
        raise UserError(f"on this machine: {error}") from None

    def attempt(cpu: str) -> bool:
        print(f"{cpu} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            same, line = verdict(reference, digests(*runners[cpu], *size))
        except UserError as error:
            same, line = False, str(error)
        print(f"{cpu:<20} {line} ({time.perf_counter() - began:.0f} s)", flush=True)
        return same

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return 0 if all(list(pool.map(attempt, cpus))) else 1


if __name__ == "__main__":
    raise SystemExit(run(main))
