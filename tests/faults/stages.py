"""The heavy stages as real programs: room, signals, kills; and two `dvc repro` at once."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.rows import stage_command
from cnn.published import PUBLISHED
from tests import clones
from tests.faults.common import MNIST, Ended, Fault, Given, files_below, half_written, refused

# What a stage writes, by its flags.
OUTPUTS = {
    "train": {
        "--model": "cnn.keras",
        "--history": "training.csv",
        "--environment": "environment.json",
    },
    "evaluate": {"--predictions": "predictions.npz", "--reports": "evaluate"},
    "report": {"--rows": "predictions.csv", "--card": "README.md"},
}
EPOCHS = 300  # some seconds, in which the training can be hit
STARTED = 0.7  # seconds after which Python has imported what tells it how to end
SIGNALS = {signal.SIGINT: (130, "interrupted: "), signal.SIGTERM: (143, "terminated: ")}


class Right:
    """What a stage that nobody disturbs leaves in a folder.

    The rows of a training are there from the first epoch on, as many as have ended.
    """

    def __init__(self, folder: Path):
        self.files, self.begun = files_below(folder), []
        if (rows := folder / OUTPUTS["train"]["--history"]).is_file():
            lines = rows.read_bytes().splitlines(keepends=True)
            self.begun = [
                {rows.name: hashlib.sha256(b"".join(lines[:n])).hexdigest()}
                for n in range(2, len(lines))
            ]

    def half(self, found: dict[str, str]) -> str:
        return half_written(found, self.files, *self.begun)


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    params = given.params | {"train": given.params["train"] | {"epochs": EPOCHS}}
    with patch.dict(PUBLISHED, mnist=MNIST):  # whose hashes are changed in the clone
        clone = clones.make(given.folder / "stages" / "clone", params, given.raw)
    target = [] if full else ["prepare"]
    clones.dvc(clone, "repro", *target)
    yield from _two_at_once(clone, target)
    if not full:
        return
    for stage in OUTPUTS:
        whole = given.folder / f"{stage}-whole"
        assert _ended(_start(clone, stage, whole)).code == 0
        after, folder = Right(whole), given.folder / f"{stage}-there"
        largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        # Below that, joblib has no room for a semaphore, and warns of it.
        sizes = [1024, *rng.integers(1024, largest, 7)]
        yield from _limits(clone, stage, folder, after, sizes)
        if os.geteuid() == 0:
            yield from _full_disks(clone, stage, folder, after, [4, 16, 48, 96, 160])
        yield from _signals(clone, stage, folder, after, rng)
        yield from _kills(clone, stage, folder, after, rng, 12)


def _start(clone: Path, stage: str, folder: Path, limit: str = "") -> subprocess.Popen:
    """Start a stage as dvc.yaml does, but for where it writes to."""
    paths = {flag: folder / name for flag, name in OUTPUTS[stage].items()}
    return subprocess.Popen(
        ["bash", "-c", f'{limit} exec "$@"', "bash", *stage_command(stage, clone, paths)],
        cwd=clone,
        env=clones.environment(clone),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _ended(process: subprocess.Popen) -> Ended:
    errors = process.communicate()[1]
    return Ended(process.returncode, errors)


def _judged(ended: Ended, folder: Path, after: Right) -> str:
    """Say what is wrong: neither refused in one line nor done, or something half written."""
    found = files_below(folder)
    if not ended.code:
        return "" if found == after.files else f"says that it is done, and left {sorted(found)}"
    return refused(ended) or after.half(found)


def _limits(
    clone: Path, stage: str, folder: Path, after: Right, sizes: list[int]
) -> Iterator[Fault]:
    for size in sizes:  # bash counts in kB
        ended = _ended(_start(clone, stage, folder, f"ulimit -f {size // 1024};"))
        problem = _judged(ended, folder, after)
        yield Fault(f"{stage}: files of {size // 1024} kB", problem)


def _full_disks(
    clone: Path, stage: str, folder: Path, after: Right, sizes: list[int]
) -> Iterator[Fault]:
    for size in sizes:
        small = folder.with_name(f"{folder.name}-{size}")
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", small], check=True)
        try:
            problem = _judged(_ended(_start(clone, stage, small)), small, after)
        finally:
            subprocess.run(["umount", small], check=True)
        yield Fault(f"{stage}: a disk of {size} kB", problem)


def _signals(
    clone: Path, stage: str, folder: Path, after: Right, rng: np.random.Generator
) -> Iterator[Fault]:
    for sent, (code, word) in SIGNALS.items():
        for moment in STARTED + rng.exponential(2.0, 6):
            process = _start(clone, stage, folder)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, sent)
            ended = _ended(process)
            lines = ended.errors.splitlines()
            found = files_below(folder)
            # Where Ctrl-C met an `exec` of a text, Python ends itself by the signal, after our line
            # is said: 130 to a shell as well. It says nothing where all is done and Python ends.
            ends = ended.code in (code, -sent) and len(lines) == 1 and lines[0].startswith(word)
            done = found == after.files and ended.code in (0, -sent) and not lines
            problem = "" if ends or done else str(ended)
            problem = problem or after.half(found)
            yield Fault(f"{stage}: {sent.name} after {moment:.2f} s", problem)


def _kills(
    clone: Path, stage: str, folder: Path, after: Right, rng: np.random.Generator, n: int
) -> Iterator[Fault]:
    """What is there is whole after each, and the next run cleans up and is right."""
    for moment in rng.exponential(3.0, n):
        process = _start(clone, stage, folder)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        _ended(process)
        found = files_below(folder)
        left = {name: digest for name, digest in found.items() if ".partial-" not in name}
        yield Fault(f"{stage}: kill after {moment:.2f} s", after.half(left))
    yield Fault(f"{stage}: the run after all kills", _judged(
        _ended(_start(clone, stage, folder)), folder, after))  # fmt: skip


def _two_at_once(clone: Path, target: list[str]) -> Iterator[Fault]:
    """One does the work; the other waits for nothing, or says why it cannot; all is right then."""
    right = clones.hashes(clone)
    (clone / "dvc.lock").unlink()
    subprocess.run(["rm", "-rf", clone / ".dvc/cache"], check=True)
    both = [
        subprocess.Popen(
            ["dvc", "repro", *target], cwd=clone, env=clones.environment(clone), text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    ended = [_ended(process) for process in both]
    problem = "" if any(not each.code for each in ended) else str(ended)
    for each in ended:
        if each.code and "lock" not in each.errors:
            problem = problem or f"no word of a lock: {each.errors[-500:]}"
        if "Traceback" in each.errors:
            problem = problem or each.errors[-500:]
    clones.dvc(clone, "repro", *target)
    found = clones.hashes(clone)
    yield Fault("two dvc repro at once", problem or ("" if found == right else "other bytes"))
