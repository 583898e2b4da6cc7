"""What was tried and how it ended; and the small data on which it is tried."""

import contextlib
import hashlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from cnn.base.npz import write_arrays
from cnn.base.params import read_yaml
from cnn.base.program import run
from cnn.published.datasets import ARRAYS, PUBLISHED, to_idx
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent.parent
# Words that say what to do.
REMEDY = re.compile(
    r"run '|run the same|allowed: |correct it|choose|expected|possible|rename|save it|set |needs"
    r"|read as|may have|'that/folder|at most|docs/|free memory|another|write it|shorten"
)


MNIST = PUBLISHED["mnist"]  # the real one


class Fault(NamedTuple):
    """What was done to the pipeline, and what was wrong with how it took that; "" is survived."""

    what: str
    problem: str


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    errors: str


class Given(NamedTuple):
    """A folder with small data, of which `raw` is called the published MNIST, and parameters."""

    folder: Path
    raw: dict[str, np.ndarray]
    params: dict
    params_yaml: Path

    def fetch(self, raw: Path) -> list[str]:
        return [f"--params={self.params_yaml}", f"--raw={raw}", f"--prepare-raw={raw}"]

    def prepare(self, raw: Path, folder: Path) -> list[str]:
        splits = [f"--{split}={folder / split}.npz" for split in ("train", "validation", "test")]
        return [
            f"--params={self.params_yaml}",
            f"--raw={raw}",
            *splits,
            f"--summary={folder / 'data.json'}",
        ]


def make(folder: Path) -> Given:
    """Make the data, which this process takes for published from now on."""
    rng = np.random.default_rng(0)
    raw = {}
    for part, n in (("train", 300), ("test", 100)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 99, (n, 28, 28), dtype=np.uint8)
        images[np.arange(n), 2 * labels + 4] = 255  # a line, whose height is the digit
        raw |= {f"x_{part}": images, f"y_{part}": labels}
    digests = tuple(hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest() for name in ARRAYS)
    PUBLISHED["mnist"] = PUBLISHED["mnist"]._replace(sha256=digests)
    (folder / "mnist").mkdir()
    write_arrays(folder / "mnist" / "mnist.npz", **raw)
    os.environ["MNIST_DIR"] = str(folder / "mnist")
    params = {
        name: section | TINY.get(name, {})
        for name, section in read_yaml(ROOT / "params.yaml").items()
    }
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    folder.chmod(0o755)  # another user may look into it
    return Given(folder, raw, params, path)


def called(main: Callable, argv: list[str]) -> Ended:
    """Call a program's `main` in this process."""
    errors, output = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            code = run(lambda: main(argv))
        except Exception:
            code = -1
            traceback.print_exc(file=errors)
    errors.flush()
    return Ended(code, errors.buffer.getvalue().decode())


def forked(main: Callable, argv: list[str], before: Callable[[], None] = lambda: None) -> Ended:
    """Call a program's `main` in a copy of this process, in which `before` was called.

    What it imports it has imported already; so it takes milliseconds.
    """
    reading, writing = os.pipe()  # a file would be under the limits that are tried
    child = os.fork()
    if not child:
        code = 255
        try:
            os.dup2(writing, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            before()
            code = run(lambda: main(argv))
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as stream:
        errors = stream.read()
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), errors)


def refused(ended: Ended, *names: object) -> str:
    """Say what is missing in a refusal: exit code 1, one line with each name and what to do."""
    lines = ended.errors.splitlines()
    lines = [line for line in lines if not line.startswith(("warning: ", "note: "))]
    if ended.code != 1 or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"exit code {ended.code}, {len(lines)} lines: {ended.errors[-1500:]!r}"
    for name in names:
        if str(name) not in lines[0]:
            return f"does not name {name}: {lines[0]}"
    if len(lines[0]) > 1500 + sum(len(str(name)) for name in names):
        return f"a line of {len(lines[0])} characters: {lines[0][:200]}"
    return "" if REMEDY.search(lines[0]) else f"does not say what to do: {lines[0]}"


def files_below(folder: Path) -> dict[str, str]:
    """Return {path: SHA-256} of all files below a folder, but for the state of a training."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".resume"
    }


def half_written(found: dict[str, str], *whole: dict[str, str]) -> str:
    """Name a file that is neither what it was before nor what it is to become, "" if none is."""
    for name, digest in found.items():
        if not any(known.get(name) == digest for known in whole):
            return f"{name} is neither the old nor the new one"
    return ""


def flipped(content: bytes, place: int) -> bytes:
    """Return the bytes with one bit changed; `place` counts bits."""
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def damaged(content: bytes, flips: int, rng: np.random.Generator):
    """Yield (what, bytes): shortened, lengthened, and with single bits flipped."""
    for share in (0, 0.01, 0.5, 0.99):
        yield f"cut to {share:.0%}", content[: int(share * len(content))]
    yield "a byte more", content + b"\0"
    for place in rng.integers(8 * len(content), size=flips):
        yield f"bit {place} flipped", flipped(content, int(place))
    first = min(800, 8 * len(content))
    for place in rng.permutation(first)[: flips // 4]:  # much is decided there
        yield f"bit {place} flipped", flipped(content, int(place))
