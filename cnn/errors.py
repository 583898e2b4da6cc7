"""What a user can mend, in one line; and `run`, with which every program calls its `main`."""

import errno
import os
import sys
from collections.abc import Callable

from cnn.processes import INTERRUPTED, TERMINATED, Terminated, say_ended, terminable

# What the system refuses, and what the user can do about it.
ROOM, RIGHTS, WAY = "make room there", "see to it that it may be read and written", "clear the way"
CURES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit on the size of files ('ulimit -f')",
    errno.EMFILE: "raise the limit on open files ('ulimit -n')",
    errno.ENFILE: "raise the limit on open files ('ulimit -n')",
    errno.ENOMEM: "free some memory",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: RIGHTS,
    errno.EIO: "check the disk",
    errno.ENOENT: "see to it that it is there",
    errno.EEXIST: WAY,
    errno.ENOTDIR: WAY,
    errno.EISDIR: WAY,
    errno.ELOOP: WAY,
    errno.ENAMETOOLONG: "choose a shorter path",
}
AGAIN = "and run the same command again"


class UserError(Exception):
    """What the user can mend, in one line: a bad value, a missing or damaged file."""


def reason(error: OSError) -> str:
    """Return why the system refused, and what to do about it."""
    return f"{error.strerror}; {CURES.get(error.errno, 'mend it')} {AGAIN}"


def in_a_line(error: Exception) -> str | None:
    """Say what went wrong, if the user or the system is the cause; None is a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in CURES:
        # Only what is printed has no name: `cnn.files.replacing` names what is written.
        place = error.filename or ("standard output" if CURES[error.errno] == ROOM else None)
        return f"{place}: {reason(error)}" if place else reason(error)
    # By name: to import the two would take longer than most programs here.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"not enough memory ({brief(str(error))}); free some {AGAIN}"
    if type(error).__name__ == "BrokenProcessPool":
        return f"a process beside this one was killed, as for want of memory; free some {AGAIN}"
    return None


def run(main: Callable[[], int | None]) -> int:
    """Call `main`; print what the user can mend as one line on stderr. Returns the exit code.

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


def _flush() -> None:
    """Write what was printed; what cannot be written is not tried again at the very end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno in CURES:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def brief(value: object, most: int = 60) -> str:
    """Return `repr(value)`, cut in its middle to about `most` characters."""
    text = repr(value)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
