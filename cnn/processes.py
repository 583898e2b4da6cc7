"""How a process ends: soon after the word, with the one that it works for, and in one line."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as a shell reports them
WORDS = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}
LOOK, CLEAN = 0.5, 1.0  # seconds between two looks after dvc, and to clean up when it has ended


class Terminated(BaseException):
    """SIGTERM has come: clean up and end."""


def say_ended(code: int) -> None:
    """Print the line that follows a signal, on a terminal below what stands there half drawn."""
    start = "\n" if sys.stderr.isatty() else ""
    text = f"{start}{WORDS[code]}: what was not finished is not written"
    print(text, file=sys.stderr, flush=True)


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the block on SIGTERM, and on the end of the dvc that runs this stage."""
    ours = current_thread() is main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the cleaning
        raise Terminated

    if ours:
        signal.signal(signal.SIGTERM, end)
    if "DVC_STAGE" in os.environ:
        Thread(target=_end_with_dvc, daemon=True).start()
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with_dvc() -> None:
    """End this process soon after the dvc that runs it: it could write over a later run's results.

    A process whose parent has ended is given another parent. Where that came first, the parent is
    of another process group.
    """
    first = _up_to_dvc()
    if all(_group(process) == os.getpgrp() for process in first):
        while _up_to_dvc() == first:
            time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLEAN)
    os._exit(TERMINATED)


def _up_to_dvc() -> list[int]:
    """Return the parent and, where that is the shell that dvc starts a stage with, dvc."""
    import psutil

    parent, shell = os.getppid(), Path(os.environ.get("SHELL") or "/bin/sh").name
    try:
        between = psutil.Process(parent)  # most shells put the program in their own place
        return [parent, between.ppid()] if between.name() == shell else [parent]
    except psutil.Error:
        return [parent]


def _group(process: int) -> int:
    try:
        return os.getpgid(process)
    except OSError:  # it has ended, or is of another session that may not be asked
        return -1


@contextmanager
def ended_at_once() -> Iterator[None]:
    """End the process on SIGINT or SIGTERM where it stands, after the line that says so.

    An exception on its way out through TensorFlow, whose threads call into Python, may crash it.
    What is inside must have nothing to clean up.
    """

    def end(number: int, _: object) -> None:
        say_ended(128 + number)
        sys.stdout.flush()
        os._exit(128 + number)

    ours = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    before = {number: signal.signal(number, end) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_parent() -> None:
    """End this process when the one that started it has ended, in whatever way."""
    from multiprocessing import parent_process

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is sent to both; the parent speaks
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


@contextmanager
def beside(workers: int) -> Iterator["ProcessPoolExecutor"]:
    """Give a pool of processes that end with this one, and at once where the block is left early.

    Not forked, since a fork copies locks, but not the threads that hold them.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, follow_parent) as pool:
        # A Ctrl-C waits until they have started, where Python would tell of it with a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(workers):
                pool.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise
