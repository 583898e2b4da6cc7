"""How do time and memory of the training grow with the data?

    python -m benchmarks.growth [--rounds 5]

Trains one epoch of the default on 1, 2, 4 and 8 times the images, each copy shifted by another
pixel. Writes results/growth.csv.
"""

import statistics

from benchmarks.rows import Rows, append, last_line, markdown, names, of, ours, parser
from cnn.errors import run

COPIES = (1, 2, 4, 8)
IMAGES = 54_000
SIZE = IMAGES * 28 * 28 * 4  # bytes


def measure(rounds: int) -> Rows:
    """Return the rows of growth.csv, measured anew."""
    rows: Rows = []
    for number in range(1, rounds + 1):
        for copies in COPIES:
            result = last_line([*ours(epochs=1), "--copies", copies])
            append(
                "growth",
                rows,
                round=number,
                copies=copies,
                seconds=round(result["training"], 2),
                peak_bytes=result["peak"],
            )
    return rows


def table(rows: Rows) -> str:
    """Return the table of growth.csv, medians over the rounds."""
    seconds, peaks, lines = {}, {}, []
    for name in names(rows, "copies"):
        copies = int(name)
        seconds[copies] = statistics.median(of(rows, name, "seconds", "copies"))
        peaks[copies] = statistics.median(of(rows, name, "peak_bytes", "copies"))
        lines.append(
            [
                f"{IMAGES * copies:,}",
                f"{seconds[copies]:.1f}",
                f"{peaks[copies] / 1e6:,.0f}",
                f"{peaks[copies] / (SIZE * copies):.1f}",
            ]
        )
    first, last = min(seconds), max(seconds)
    more = last - first
    titles = ["images", "seconds per epoch, median", "peak memory, MB", "times the images' size"]
    return (
        f"{markdown(titles, lines)}\n\n"
        f"From the first row to the last, {IMAGES:,} images more take "
        f"{(seconds[last] - seconds[first]) / more:.1f} s, and a byte of images more "
        f"{(peaks[last] - peaks[first]) / (more * SIZE):.2f} bytes of memory; "
        f"n = {len(names(rows, 'round'))} rounds."
    )


def main(argv: list[str] | None = None) -> None:
    print(table(measure(parser(__doc__).parse_args(argv).rounds)))


if __name__ == "__main__":
    raise SystemExit(run(main))
