"""kill -9 at every write, every rename and random moments of `dvc repro`; and two at once."""

import builtins
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from cnn.published.datasets import PUBLISHED
from stages import fetch, prepare
from tests.faults.common import MNIST, Fault, Given, files_below, forked, half_written
from tests.helpers import clones

KILLS = {"small": 3, "full": 100}
MEAN = 4.0  # seconds until a kill
ORPHANS = 5


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    raw = given.folder / "mnist/mnist.npz"
    for stage in (fetch, prepare):
        yield from _at_every_write(given, stage, raw)
    yield from _of_dvc(given, full, rng)


def _at_every_write(given: Given, stage: object, raw: Path) -> Iterator[Fault]:
    """A file has its old bytes or its new ones, or is not there; and the next run is right."""
    folder, whole = given.folder / stage.__name__, given.folder / f"{stage.__name__}-whole"
    words = [given.fetch(each / "raw.npz") if stage is fetch else given.prepare(raw, each)
             for each in (folder, whole)]  # fmt: skip
    forked(stage.main, words[1])
    after = files_below(whole)
    for number in itertools.count(1):
        ended = forked(stage.main, words[0], lambda number=number: _die_at(number, folder))
        found = files_below(folder)
        finished = {name: digest for name, digest in found.items() if ".partial-" not in name}
        what = f"{stage.__name__}: kill {number}"
        if ended.code != -signal.SIGKILL:
            problem = "" if found == after else f"left {sorted(found)}"
            errors = [line for line in ended.errors.splitlines() if not line.startswith("note: ")]
            yield Fault(f"{what}: what runs after all of them", " ".join(errors) or problem)
            return
        yield Fault(what, half_written(finished, after))
        for name in finished:
            (folder / name).unlink()


def _die_at(number: int, folder: Path) -> None:
    """Kill this process at its n-th opening for writing, or before or after its n-th rename."""
    left = itertools.count(1)

    def count() -> None:
        if next(left) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    opening, replacing = builtins.open, os.replace

    def opened(file, mode="r", *args, **kwargs):
        stream = opening(file, mode, *args, **kwargs)
        if any(letter in mode for letter in "wax+") and str(file).startswith(str(folder)):
            count()
        return stream

    def replaced(*paths) -> None:
        count()
        replacing(*paths)
        count()

    builtins.open = io.open = opened
    os.replace = replaced


def _of_dvc(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    """Each `dvc repro` is killed with all that it started, and the next goes on."""
    with patch.dict(PUBLISHED, mnist=MNIST):  # whose hashes are changed in the clone
        clone = clones.make(given.folder / "dvc" / "clone", given.params, given.raw)
    target = [] if full else ["prepare"]
    mean = MEAN if full else 1.0
    clones.dvc(clone, "repro", *target)
    right = clones.hashes(clone)
    kills, wanted = 0, KILLS["full" if full else "small"]
    while kills < wanted:
        (clone / "dvc.lock").unlink(missing_ok=True)
        subprocess.run(["rm", "-rf", clone / ".dvc/cache", clone / "data"], check=True)
        (clone / "data").mkdir()
        clones.git(clone, "checkout", "--quiet", "--", "data")
        moments = []
        while kills < wanted:
            moment = float(rng.exponential(mean))
            process = _started(clone, "repro", *target)
            try:
                process.wait(moment)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                moments.append(moment)
        again = (clone, sys.executable, "-m", "dvc", "repro", *target)
        done = clones.attempt(*again)
        if "RWLock" in done.stderr:  # DVC was killed while it wrote its list of locks
            clones.run(clone, sys.executable, "-m", "tools.repair")
            done = clones.attempt(*again)
        found = clones.hashes(clone) if done.returncode == 0 else {}
        stray = [str(path) for path in clone.rglob(".partial-*")]
        problem = "" if found == right and not stray else f"{done.stderr[-500:]} {stray}"
        for moment in moments:
            yield Fault(f"the group after {moment:.2f} s", problem)
    yield _two_at_once(clone, target, right)
    for _ in range(ORPHANS if full else 0):
        yield _orphan(given, clone, right)


def _started(clone: Path, *words: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *words],
        cwd=clone,
        env=clones.environment(clone),
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )


def _two_at_once(clone: Path, target: list[str], right: dict[str, str]) -> Fault:
    """One does the work; the other waits for nothing, or says why it cannot; all is right then."""
    (clone / "dvc.lock").unlink()
    subprocess.run(["rm", "-rf", clone / ".dvc/cache"], check=True)
    both = [_started(clone, "repro", *target, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [(process.communicate()[1].decode(), process.returncode) for process in both]
    problem = "" if any(not code for _, code in ended) else str(ended)
    for errors, code in ended:
        if "Traceback" in errors or (code and "lock" not in errors):
            problem = problem or errors[-500:]
    clones.dvc(clone, "repro", *target)
    return Fault(
        "two dvc repro at once",
        problem or ("" if clones.hashes(clone) == right else "other bytes"),
    )


def _orphan(given: Given, clone: Path, right: dict[str, str]) -> Fault:
    """dvc alone is killed while it trains: the stage ends, and a later result stays."""
    long = given.params | {"train": given.params["train"] | {"epochs": 1000}}
    clones.set_params(clone, long)
    rows = clone / "reports/train/training.csv"
    rows.unlink(missing_ok=True)
    process = _started(clone, "repro")
    while not rows.is_file() and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.wait()
    clones.set_params(clone, given.params)
    for _ in range(50):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        return Fault("dvc alone, in train", "the stage still runs after 5 s")
    clones.dvc(clone, "repro")
    return Fault("dvc alone, in train", "" if clones.hashes(clone) == right else "other bytes")
