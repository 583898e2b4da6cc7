"""Report how far a long computation is: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time

from tqdm import tqdm

FIRST, LATER = 4.0, 60.0  # seconds until a log has its first line, and after the latest line


def duration(seconds: float) -> str:
    """Return a duration as a person says it: "48 s", "12 min", "1 h 40 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Progress:
    """How many of `total` steps are done, and lines about it; a context that closes the bar."""

    def __init__(self, total: int, silent: bool = False):
        self.total, self.silent = total, silent
        # disable=None: only on a terminal
        self._bar = tqdm(
            total=total, unit="step", leave=False, dynamic_ncols=True, disable=silent or None
        )
        self._last_line = time.perf_counter() - LATER + FIRST
        self._first: tuple[float, int] | None = None  # time and count of the first update

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def line(self, text: str) -> None:
        """Print a line, above the bar."""
        if self.silent:
            return
        self._last_line = time.perf_counter()
        self._bar.clear()
        print(text, flush=True)
        self._bar.refresh()

    def update(self, count: int) -> None:
        """Show that `count` steps are done; in a log, after each minute without a line."""
        now = time.perf_counter()
        self._bar.update(count - self._bar.n)
        self._first = self._first or (now, count)
        since, before = self._first
        if self._bar.disable and count > before and now - self._last_line > LATER:
            rest = (self.total - count) * (now - since) / (count - before)
            self.line(f"step {count:,} of {self.total:,}, about {duration(rest)} left")
