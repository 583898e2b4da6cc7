"""Say how far a long computation is: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tqdm import tqdm

LOOK = 0.2  # seconds between two looks at the count
FIRST, LATER = 4.0, 60.0  # seconds until a log has its first line, and after the latest line


def seconds(taken: float) -> str:
    """Return a duration as a person says it: "48 s", "12 min", "1 h 40 min"."""
    if taken < 100:
        return f"{taken:.0f} s"
    hours, minutes = divmod(round(taken / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@contextmanager
def shown(
    total: int, done: Callable[[], int], silent: bool = False
) -> Iterator[Callable[[str], None]]:
    """Say while the block runs how many of `total` steps are done; it gets a function for lines.

    A thread of its own asks `done`, so that what computes does not have to return to Python for it.
    On a terminal it draws a bar on standard error, above which the lines go by; in a log it prints,
    every minute in which nothing else is said, what is done and how long the rest will take. With
    `silent` it says nothing.
    """
    if silent:
        yield lambda text: None
        return
    bar = tqdm(total=total, unit="step", leave=False, dynamic_ncols=True, disable=None)
    over = Event()
    said = time.perf_counter() - LATER + FIRST

    def line(text: str) -> None:
        nonlocal said
        said = time.perf_counter()
        bar.clear()
        print(text, flush=True)
        bar.refresh()

    def watch() -> None:
        first = None  # (time, count) of the first step that was seen: what came before was start-up
        while not over.wait(LOOK):
            now, count = time.perf_counter(), done()
            bar.update(count - bar.n)
            first = first or (now, count) if count else None
            if bar.disable and first and count > first[1] and now - said > LATER:
                rest = (total - count) * (now - first[0]) / (count - first[1])
                line(f"step {count:,} of {total:,}, about {seconds(rest)} left")

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield line
    finally:
        over.set()
        watcher.join()
        bar.close()
