"""How a program ends: in one line where the user is the cause, and soon after a signal."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, current_thread, main_thread

from cnn.base.errors import AGAIN, REMEDIES, ROOM, UserError, brief, reason

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as a shell reports them
WORDS = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}
LOOK, CLEAN = 0.5, 1.0  # seconds between two checks of dvc, and to clean up when it has ended


def cores() -> int:
    """Return how many cores this process may use."""
    available = getattr(os, "sched_getaffinity", None)  # Linux; knows of taskset and cpusets
    return len(available(0)) if available else os.cpu_count() or 1


def take_cores(index: int, of: int) -> None:
    """Leave this thread, and what it starts, the cores of place `index` of `of`, on Linux.

    They are of those that the main thread may use: in another one, a second call takes others.
    """
    if hasattr(os, "sched_setaffinity"):
        ours = sorted(os.sched_getaffinity(os.getpid()))
        os.sched_setaffinity(0, ours[index::of] or ours[index % len(ours) :][:1])


def environment_with_python() -> dict[str, str]:
    """Return the environment, in which a program finds this `python` first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


class Terminated(BaseException):
    """SIGTERM has come: clean up and end."""


def run(main: Callable[[], int | None]) -> int:
    """Call `main`; print what the user can fix as one line on stderr. Returns the exit code.

    Returns
    -------
    What `main` returns, 0 for None; 1 after such a line; 130 after Ctrl-C, 143 after SIGTERM, or
    when the dvc that runs a stage was killed.
    """
    try:
        with terminable():
            code = main() or 0
            _flush()
            return code
    except KeyboardInterrupt:
        say_ended(INTERRUPTED)
        return INTERRUPTED
    except Terminated:
        say_ended(TERMINATED)
        return TERMINATED
    except Exception as error:
        if (line := in_a_line(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1


def in_a_line(error: Exception) -> str | None:
    """Say what went wrong, if the user or the system is the cause; None is a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in REMEDIES:
        # Only what is printed has no name: `cnn.base.files.atomic_write` names what is written.
        place = error.filename or ("standard output" if REMEDIES[error.errno] == ROOM else None)
        return f"{place}: {reason(error)}" if place else reason(error)
    # By name: to import TensorFlow would take longer than most programs here.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"not enough memory ({brief(str(error))}); free some {AGAIN}"
    return None


def _flush() -> None:
    """Write what was printed; what cannot be written is not tried again at the very end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno in REMEDIES:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def say_ended(code: int) -> None:
    """Print the line that follows a signal, on a terminal below what stands there half drawn."""
    start = "\n" if sys.stderr.isatty() else ""
    text = f"{start}{WORDS[code]}: what was not finished is not written\n"
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except RuntimeError:  # the signal came in the middle of a print, which cannot be entered
        os.write(2, text.encode())


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the block on SIGTERM, and on the end of the dvc that runs this stage."""
    ours = current_thread() is main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the clean-up
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
    """End the process on SIGINT or SIGTERM at once, after the line that says so.

    An exception on its way out through TensorFlow, whose threads call into Python, may crash it.
    What is inside must have nothing to clean up.
    """

    def end(number: int, _: object) -> None:
        say_ended(128 + number)
        with suppress(RuntimeError):  # as above: the line being printed is lost
            sys.stdout.flush()
        os._exit(128 + number)

    ours = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
    before = {number: signal.signal(number, end) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def silence() -> Iterator[None]:
    """Discard what C code writes to standard error.

    No setting keeps TensorFlow's start-up notes off the terminal, or libtiff's warnings.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
