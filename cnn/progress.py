"""Say how far a long computation is: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

FIRST, LATER = 4.0, 60.0  # seconds until a log has its first line, and after the latest line


def seconds(taken: float) -> str:
    """Return a duration as a person says it: "48 s", "12 min", "1 h 40 min"."""
    if taken < 100:
        return f"{taken:.0f} s"
    hours, minutes = divmod(round(taken / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Bar:
    """How many of `total` steps are done, and lines about it."""

    def __init__(self, total: int, silent: bool):
        self.total, self.silent = total, silent
        # disable=None: only on a terminal
        self._bar = tqdm(
            total=total, unit="step", leave=False, dynamic_ncols=True, disable=silent or None
        )
        self._said = time.perf_counter() - LATER + FIRST
        self._first: tuple[float, int] | None = None  # time and count of what was seen first

    def line(self, text: str) -> None:
        """Print a line, above the bar."""
        if self.silent:
            return
        self._said = time.perf_counter()
        self._bar.clear()
        print(text, flush=True)
        self._bar.refresh()

    def update(self, count: int) -> None:
        """Say that `count` steps are done; in a log, every minute in which nothing else is said."""
        now = time.perf_counter()
        self._bar.update(count - self._bar.n)
        self._first = self._first or (now, count)
        since, before = self._first
        if self._bar.disable and count > before and now - self._said > LATER:
            rest = (self.total - count) * (now - since) / (count - before)
            self.line(f"step {count:,} of {self.total:,}, about {seconds(rest)} left")

    def close(self) -> None:
        self._bar.close()


@contextmanager
def shown(total: int, silent: bool = False) -> Iterator[Bar]:
    """Give a `Bar` while the block runs."""
    bar = Bar(total, silent)
    try:
        yield bar
    finally:
        bar.close()
