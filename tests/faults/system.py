"""A system that refuses: room, rights, memory; an odd home, a clock that jumps."""

import builtins
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cnn.base.npz import write_arrays
from stages import fetch, prepare
from tests.faults.common import (
    Ended,
    Fault,
    Given,
    called,
    files_below,
    forked,
    half_written,
    refused,
)

NOBODY = 65534


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    raw = given.folder / "mnist/mnist.npz"
    whole = given.folder / "whole"
    for stage, words in _stages(given, raw, whole):
        called(stage.main, words)  # and so all is imported, which another user may not be able to
    after = files_below(whole)
    there = given.folder / "there"
    yield from _limits(given, raw, there, after, rng, 40 if full else 6)
    if os.geteuid() == 0:
        yield from _rights(given, raw)
    yield from _surroundings(given, raw, after)
    yield from _memory(given)


def _stages(given: Given, raw: Path, folder: Path) -> Iterator[tuple[object, list[str]]]:
    yield fetch, given.fetch(folder / "raw.npz")
    yield prepare, given.prepare(raw, folder)


def _kept(folder: Path, after: dict[str, str]) -> str:
    """Say what is neither absent nor whole below a folder."""
    return half_written(files_below(folder), after)


def _limits(
    given: Given, raw: Path, there: Path, after: dict, rng: np.random.Generator, n: int
) -> Iterator[Fault]:
    for stage, words in _stages(given, raw, there):
        sizes = [0, 1, *rng.integers(2, 250_000, size=n)]
        for size in map(int, sizes):

            def limit(size=size) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

            def full_disk(size=size) -> None:
                _disk(size)

            for what, before in ((f"files of {size:,} bytes", limit), ("a full disk", full_disk)):
                ended = forked(stage.main, words, before)
                problem = refused(ended) or _kept(there, after)
                yield Fault(f"{stage.__name__}: {what}, at {size:,}", problem)


def _disk(room: int) -> None:
    """Let this process write so many bytes, and then have no room: as a full disk does."""
    left = [room]
    real = io.FileIO.write

    class Full(io.FileIO):
        def write(self, data) -> int:
            left[0] -= memoryview(data).nbytes
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(self, data)

    def opened(file, mode="r", *args, **kwargs):
        if any(letter in mode for letter in "wax+"):
            raw = Full(file, mode.replace("b", "").replace("t", ""))
            stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return stream
            return io.TextIOWrapper(stream, kwargs.get("encoding"), newline=kwargs.get("newline"))
        return plain(file, mode, *args, **kwargs)

    plain = builtins.open
    builtins.open = io.open = opened


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _rights(given: Given, raw: Path) -> Iterator[Fault]:
    """As another user than root, who may all."""
    locked = given.folder / "locked"
    locked.mkdir(mode=0o555)
    secret = given.folder / "secret.npz"
    secret.write_bytes(raw.read_bytes())
    secret.chmod(0)
    for stage, words in _stages(given, raw, locked):
        ended = forked(stage.main, words, _become_nobody)
        yield Fault(f"{stage.__name__}: a folder that is read-only", refused(ended, locked))
    ended = forked(prepare.main, given.prepare(secret, given.folder / "x"), _become_nobody)
    yield Fault("prepare: an input that is not readable", refused(ended, secret))
    given.params_yaml.chmod(0)
    for stage, words in _stages(given, raw, locked):
        ended = forked(stage.main, words, _become_nobody)
        yield Fault(
            f"{stage.__name__}: params.yaml is not readable", refused(ended, given.params_yaml)
        )
    given.params_yaml.chmod(0o644)
    taken = given.folder / "taken"
    taken.write_text("a file where a folder should be")
    for stage, words in _stages(given, raw, taken):
        yield Fault(
            f"{stage.__name__}: a file in the way", refused(forked(stage.main, words), taken)
        )


def _surroundings(given: Given, raw: Path, after: dict) -> Iterator[Fault]:
    """What changes no byte: home, folders for temporaries, and the clock."""
    nowhere, locked = str(given.folder / "nowhere"), given.folder / "locked"

    def environment(**variables: str | None) -> Callable[[], None]:
        def before() -> None:
            for name, value in variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            tempfile.tempdir = None

        return before

    def clock(start: float, step: float) -> Callable[[], None]:
        def before() -> None:
            calls = iter(range(10**9))
            time.time = lambda: start + step * next(calls)

        return before

    for what, before in {
        "HOME is missing": environment(HOME=nowhere, XDG_CACHE_HOME=None),
        "HOME is not set": environment(HOME=None),
        "HOME is a file": environment(HOME=str(given.params_yaml), XDG_CACHE_HOME=None),
        "HOME is read-only": environment(HOME=str(locked), XDG_CACHE_HOME=None),
        "TMPDIR is missing": environment(TMPDIR=nowhere),
        "TMPDIR is a file": environment(TMPDIR=str(given.params_yaml)),
        "a clock that stands in 1970": clock(0, 0),
        "a clock that runs backwards": clock(2e9, -3600),
        "a clock in 2100": clock(4.1e9, 1),
    }.items():
        folder = given.folder / "odd"
        for stage, words in _stages(given, raw, folder):
            ended = forked(stage.main, words, before)
            problem = "" if ended.code == 0 else str(ended)
            yield Fault(f"{stage.__name__}: {what}", problem)
        yield Fault(f"the same bytes though {what}", _kept(folder, after))


def _memory(given: Given) -> Iterator[Fault]:
    """As little as remains of the address space for images that need more."""
    path = given.folder / "large.npz"
    labels = (np.arange(30_000) % 10).astype(np.uint8)
    write_arrays(path, x_train=np.ones((30_000, 28, 28), np.uint8) * 9, y_train=labels)
    for more in (2**20, 2**24, 2**25, 2**26):

        def limit(more=more) -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            room = pages * resource.getpagesize() + more
            resource.setrlimit(resource.RLIMIT_AS, (room, room))

        ended: Ended = forked(prepare.main, given.prepare(path, given.folder / "large"), limit)
        yield Fault(f"prepare: {more:,} bytes of memory", "" if not ended.code else refused(ended))
