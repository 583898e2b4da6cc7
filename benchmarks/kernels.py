"""Do the kernels give the same bytes on other CPUs, and do they stay within their memory?

    python -m benchmarks.kernels [--cases 40] [--emulated]

Builds the check program of cnn/kernels (check.c: random networks, held to plain loops) for each
level of this machine's CPUs, and once with AddressSanitizer and UndefinedBehaviorSanitizer; with
`--emulated` also for other CPUs, run by qemu-user: x86-64 without AVX, with AVX2, and aarch64
(Debian: qemu-user, gcc-aarch64-linux-gnu). Compares what all of them print, a digest per case.
Exit code 1 if one differs or fails.
"""

import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import bare_parser, count
from cnn.base.errors import UserError
from cnn.base.program import cores, run
from cnn.kernels import build, load, widest
from cnn.kernels.build import FLAGS, HERE, LEVELS, levels

SOURCES = [HERE / "check/check.c", HERE / "check/twin.c"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# {CPU: (emulator, compiler, flags)}. Static, so that no libraries of another machine are needed.
EMULATED = {
    "qemu64": ("qemu-x86_64", "cc", LEVELS["plain"]),
    "Haswell": ("qemu-x86_64", "cc", LEVELS["v3"]),
    "EPYC-Milan": ("qemu-x86_64", "cc", LEVELS["v3"]),
    "cortex-a72": ("qemu-aarch64", "aarch64-linux-gnu-gcc", []),
    "neoverse-n1": ("qemu-aarch64", "aarch64-linux-gnu-gcc", []),
}


def digests(name: str, compiler: str, flags: list[str], prefix: list[str], cases: int) -> str:
    """Build and run the check program; return what it prints.

    Raises
    ------
    UserError
        It cannot be built, or found a difference, with what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "check")
        try:
            build.compiled([compiler, *FLAGS, *flags], SOURCES, program)
            done = subprocess.run(
                [*prefix, program, str(cases)], capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: is missing; the docstring names it") from None
        except subprocess.CalledProcessError as error:
            raise UserError(f"{name}: cannot be built: {error.stderr.strip()[-500:]}") from None
    if done.returncode:
        reasons = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise UserError(f"{name}: exit code {done.returncode}: {' '.join(reasons[-8:])}")
    return done.stdout


def main(argv: list[str] | None = None) -> int:
    parser = bare_parser(__doc__)
    parser.add_argument("--cases", type=count, default=40, metavar="N")
    parser.add_argument("--emulated", action="store_true")
    arguments = parser.parse_args(argv)
    load()
    able = list(levels().items())[: widest() + 1]
    runs = {name: ("cc", flags, []) for name, flags in able}
    runs |= {f"{name}, sanitizers": ("cc", [*flags, *SANITIZERS], []) for name, flags in able[-1:]}
    if arguments.emulated:
        for cpu, (emulator, compiler, flags) in EMULATED.items():
            runs[f"{cpu}, emulated"] = compiler, [*flags, "-static"], [emulator, "-cpu", cpu]
    reference, same = None, True
    with ThreadPoolExecutor(cores()) as pool:  # an emulator takes a core for minutes
        found = {
            name: pool.submit(digests, name, *given, arguments.cases)
            for name, given in runs.items()
        }
        for name, printed in found.items():
            try:
                reference = reference or printed.result()
                alike = printed.result() == reference
            except UserError as error:
                print(f"{name:<24} {error}")
                same = False
                continue
            same &= alike
            text = "the same bytes" if alike else "DIFFERENT"
            print(f"{name:<24} {arguments.cases} cases: {text}", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(run(main))
