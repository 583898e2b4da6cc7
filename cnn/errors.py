"""What a user can mend, in one line; and `run`, with which every program calls its `main`."""

import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


class UserError(Exception):
    """What the user can mend, in one line: a bad value, a missing or damaged file."""


def say_interrupted() -> None:
    """Print the one line that follows Ctrl-C, on a terminal below what stands there half drawn."""
    start = "\n" if sys.stderr.isatty() else ""
    print(f"{start}interrupted: what was not finished is not written", file=sys.stderr, flush=True)


def run(main: Callable[[], int | None]) -> int:
    """Call `main`; print a UserError as one line on stderr. Returns the exit code.

    Returns
    -------
    What `main` returns, 0 for None; 1 after a UserError; 130 after Ctrl-C.
    """
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say_interrupted()
        return INTERRUPTED


def brief(value: object, most: int = 60) -> str:
    """Return `repr(value)`, cut in its middle to about `most` characters."""
    text = repr(value)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
