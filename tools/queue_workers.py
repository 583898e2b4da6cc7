"""Start the workers of DVC's queue so that they do not fight over cores."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cnn.errors import UserError
from tools.verify import environment_for_clone

PATIENCE = 30  # seconds in which a worker must have started


def running_workers(queue) -> dict[int, int]:
    """Return {number: process id} of the queue's workers that are running."""
    import psutil

    found = {}
    for path in Path(queue.wdir).glob("dvc-exp-worker-*.pid"):
        try:
            process = psutil.Process(int(path.read_text()))
            if "queue-worker" in process.cmdline():
                found[int(path.stem.rpartition("-")[2])] = process.pid
        except (psutil.Error, ValueError):  # ended, or its number is another process's now
            continue
    return found


def parts(available: list[int], jobs: int) -> list[list[int]]:
    """Return the cores of each job: disjoint, and as many for one as for another, or one more."""
    n = len(available)
    return [available[job * n // jobs : (job + 1) * n // jobs] for job in range(jobs)]


def end_idle_workers(queue) -> None:
    """Have workers end that DVC keeps for some seconds after their last experiment.

    They may be more than are wanted now, and on other cores.
    """
    if not running_workers(queue) or any(queue.iter_active()):
        return
    queue.shutdown()
    deadline = time.monotonic() + PATIENCE
    while running_workers(queue) and time.monotonic() < deadline:
        time.sleep(0.05)


def start_workers(queue, jobs: int) -> None:
    """Have DVC start its workers up to `jobs` of them, and give each cores of its own."""
    import psutil

    if len(running_workers(queue)) < jobs:
        # The workers go on after this process: they must not hold its pipes open.
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        command = ["dvc", "queue", "start", "--jobs", str(jobs)]
        subprocess.run(command, env=environment_for_clone(), check=False, **silent)
    deadline = time.monotonic() + PATIENCE
    while len(found := running_workers(queue)) < jobs:
        if time.monotonic() > deadline:
            raise UserError("DVC's queue workers do not start; 'dvc queue start -v' says why")
        time.sleep(0.05)
    if not hasattr(os, "sched_setaffinity"):
        return
    available = sorted(os.sched_getaffinity(0))
    # What a worker starts later, a training, inherits them; it takes a second to start the first.
    for (_, process), own in zip(sorted(found.items()), parts(available, jobs), strict=False):
        with suppress(psutil.Error, ProcessLookupError):  # a worker ends when the queue is empty
            for thread in psutil.Process(process).threads():
                os.sched_setaffinity(thread.id, own)
