"""Build the kernels for this machine, in seconds: `python -m tools.kernels`.

Reads the C files of this folder and writes a shared library for each level of this machine's
family of CPUs into `kernels/` of the Python environment, under a name that holds the digest of the
sources, so that clones and DVC's temporary copies find theirs. By the first of `COMPILERS` that
works; where none does, by PyPI's ziglang, which is downloaded for the build alone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.files import atomic_write

HERE = Path(__file__).parent
SOURCES = ("network.c", "network.h", "primitives.h", "vector.h")
COMPILERS = ("cc", "gcc", "clang")
LOCK = HERE.parent.parent / "requirements-compiler.txt"  # ziglang, with its hashes

# No product and sum in one operation but where the source says so.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-fast-math", "-fno-math-errno", "-pthread"]
LIBRARY = ["-fvisibility=hidden", "-fPIC", "-shared"]
# What each level may use; the widest that the CPU and the system have is loaded. Before gcc 11 the
# levels have no names of their own.
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt", "-mmovbe", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl"))]
WIDE = "-mprefer-vector-width=512"
LEVELS = {"plain": ["-march=x86-64"], "v3": AVX2, "v4": [*AVX512, WIDE]}
OTHER_LEVELS = {"plain": []}  # NEON is part of every aarch64
ZIG_CPUS = {"plain": "x86_64", "v3": "x86_64_v3", "v4": "x86_64_v4"}


def levels() -> dict[str, list[str]]:
    """Return {level: flags} of this machine's family, from the plainest to the widest."""
    return LEVELS if platform.machine() in ("x86_64", "AMD64") else OTHER_LEVELS


def digest(*more: object) -> str:
    """Return 16 hexadecimal digits of the sources, and of what else is given."""
    found = hashlib.sha256(repr(more).encode())
    for name in SOURCES:
        found.update((HERE / name).read_bytes())
    return found.hexdigest()[:16]


def library(level: str) -> Path:
    """Return the path of a level's library, built or not."""
    built = digest(FLAGS, LIBRARY, levels(), platform.machine())
    return Path(sys.prefix, "kernels", f"{built}-{level}.so")


def is_built() -> bool:
    """Return whether the libraries of these very sources are there."""
    return all(library(level).is_file() for level in levels())


def compiled(command: Sequence[object], sources: Sequence[Path], target: Path) -> None:
    """Run a compiler; OSError or CalledProcessError where it cannot.

    It is given these flags alone: no CFLAGS, CPATH or the like reach it.
    """
    env = {name: os.environ[name] for name in ("PATH", "TMPDIR", "HOME") if name in os.environ}
    with atomic_write(target) as temporary:
        words = [*command, *sources, "-o", temporary, "-lm"]
        subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True, env=env)


def level_flags(level: str, zig: bool = False) -> list[str]:
    """Return what a compiler is told for a level; zig has names of its own."""
    if not zig:
        return levels()[level]
    # Without a target it builds for this very CPU.
    target = f"{platform.machine()}-linux-gnu"
    cpu = ZIG_CPUS[level] if "x86" in target else "generic"
    return ["-target", target, f"-mcpu={cpu}", *([WIDE] if level == "v4" else [])]


def compile_all(compiler: Sequence[str], zig: bool = False) -> None:
    """Build the libraries of all levels."""
    for level in levels():
        flags = [*FLAGS, *LIBRARY, *level_flags(level, zig)]
        compiled([*compiler, *flags], [HERE / SOURCES[0]], library(level))


def build() -> str | None:
    """Build by a compiler of this machine; return its name, None where none works."""
    for name in COMPILERS:
        if path := shutil.which(name):
            try:
                compile_all([path])
            except (OSError, subprocess.CalledProcessError):
                continue  # such as a compiler without libc's headers
            return name
    return None


@contextmanager
def ziglang() -> Iterator[list[str]]:
    """Give the command of PyPI's ziglang, which is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--require-hashes", "--no-deps", "--target", folder, "-r", str(LOCK)]
        subprocess.run(pip, check=True)
        yield [str(Path(folder, "ziglang", "zig")), "cc"]


def build_with_zig() -> None:
    """Build by PyPI's ziglang."""
    try:
        with ziglang() as compiler:
            compile_all(compiler, zig=True)
    except (OSError, subprocess.CalledProcessError) as error:
        output = " ".join((getattr(error, "stderr", None) or str(error)).split())[-300:]
        raise UserError(
            f"the kernels cannot be built: no compiler ({', '.join(COMPILERS)}) works here, "
            f"and ziglang neither ({output}); install gcc or clang and run 'make repro'"
        ) from None
