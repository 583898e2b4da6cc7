"""How a process ends: soon after the word, with the one that it works for, and in one line."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as a shell reports them
CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
WORDS = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}
GRACE = 0.3  # seconds that the main thread has to end by itself
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
def ending_promptly() -> Iterator[None]:
    """End the process soon after SIGINT or SIGTERM, though the main thread is deep in TensorFlow.

    Python's handler waits until the main thread is back in Python: a whole epoch. The C code that
    takes the signal writes to a pipe at once, and another thread reads it. What is inside must have
    nothing to clean up.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    left = Event()

    def watch() -> None:
        while (taken := os.read(reading, 1)) and taken[0] not in CODES:
            pass
        if taken and not left.wait(GRACE):
            say_ended(CODES[taken[0]])
            os._exit(CODES[taken[0]])

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(previous)
        os.close(writing)
        watcher.join()
        os.close(reading)


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
