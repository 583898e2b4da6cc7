"""Does another CPU give other bytes? Run the pipeline on emulated ones and compare every file.

    python -m benchmarks.machines [--cpus Haswell EPYC-Milan ...] [--steps 6] [--images 1000]
                                  [--jobs 1]

Runs `benchmarks.emulated` (all stages but fetch, the training cut to a few steps) on this machine
and then on each CPU that `qemu-x86_64` (Debian: qemu-user) is told to be. Reads what `make repro`
leaves and writes nothing. Prints a line per CPU and, on standard error, how far it is. Exit code 1
if a byte differs or a run fails.

An emulated CPU tells the features, family and caches of the real one, and by these numpy, OpenBLAS,
TensorFlow and oneDNN choose how they compute. It has no AVX-512, whatever its name. A CPU takes
minutes: what computes for a second on the machine, emulated computes for several minutes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.rows import count
from cnn.errors import UserError, run
from tools.repair import md5

QEMU = "qemu-x86_64"
# Makers and generations of CPUs with AVX2; `max` has every feature that is emulated.
CPUS = ("Haswell", "Broadwell", "Skylake-Client", "EPYC-Rome", "EPYC-Milan", "max")

Digests = dict[str, str]  # file: MD5


def emulator(cpus: Sequence[str]) -> str:
    """Return the path of the emulator.

    Raises
    ------
    UserError
        It is missing, or knows no such CPU.
    """
    path = shutil.which(QEMU)
    if path is None:
        raise UserError(f"{QEMU}: is missing; install qemu-user (Debian's package)")
    # It lists them and exits with 1.
    asked = subprocess.run([path, "-cpu", "help"], capture_output=True, text=True, check=False)
    if unknown := set(cpus) - set(asked.stdout.split()):
        raise UserError(f"{min(unknown)}: is no CPU of {QEMU}; '{QEMU} -cpu help' names them")
    return path


def digests(prefix: Sequence[str], steps: int, images: int) -> Digests:
    """Return what `benchmarks.emulated` writes when it is started by `prefix`.

    Raises
    ------
    UserError
        It failed; with the last line that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [*prefix, sys.executable, "-u", "-m", "benchmarks.emulated", folder]
        command += ["--steps", str(steps), "--images", str(images)]
        # What the stages print tells how far they are. The emulator warns of every feature that it
        # lacks, once a thread.
        done = subprocess.run(
            command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no reason given"]
            raise UserError(f"exit code {done.returncode}: {said[-1]}")
        return {
            path.relative_to(folder).as_posix(): md5(path)
            for path in Path(folder).rglob("*")
            if path.is_file()
        }


def differing(reference: Digests, found: Digests) -> list[str]:
    """Return the files that are not the same in both, or in one of them only."""
    files = reference.keys() | found
    return sorted(name for name in files if reference.get(name) != found.get(name))


def verdict(reference: Digests, prefix: Sequence[str], *size: int) -> tuple[bool, str]:
    """Run on an emulated CPU; tell whether all is as in `reference`, and in words what is not."""
    try:
        others = differing(reference, digests(prefix, *size))
    except UserError as error:
        return False, str(error)
    if others:
        return False, f"{len(others)} of {len(reference)} files differ: {', '.join(others)}"
    return True, f"all {len(reference)} files have the same bytes"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpus", nargs="+", default=CPUS, metavar="NAME")
    parser.add_argument("--steps", type=count, default=6, metavar="N", help="of the training")
    parser.add_argument("--images", type=count, default=1000, metavar="N", help="of the test")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="CPUs side by side")
    arguments = parser.parse_args(argv)
    qemu, size = emulator(arguments.cpus), (arguments.steps, arguments.images)
    try:
        reference = digests([], *size)
    except UserError as error:
        raise UserError(f"on this machine: {error}") from None

    def attempt(cpu: str) -> bool:
        print(f"{cpu} ...", file=sys.stderr, flush=True)
        began = time.perf_counter()
        same, told = verdict(reference, [qemu, "-cpu", cpu], *size)
        print(f"{cpu:<20} {told} ({time.perf_counter() - began:.0f} s)", flush=True)
        return same

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return 0 if all(list(pool.map(attempt, arguments.cpus))) else 1


if __name__ == "__main__":
    raise SystemExit(run(main))
