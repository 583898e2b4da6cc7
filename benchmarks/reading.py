"""How long does `handwriting.predict` take to read pictures, and how much memory?

    python -m benchmarks.reading [--rounds 5]

Reads one picture, 1,000, and one of 16 megapixels, in turn with the import of TensorFlow. Writes
results/reading.csv.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.guises import enlarged, photo, shaded
from benchmarks.rows import (
    Rows,
    append,
    last_line,
    markdown,
    names,
    of,
    pairs,
    parser,
    ranged,
    ratios,
)
from cnn.errors import run

BASE = "import tensorflow"
ONE, MANY, LARGE = (
    "one picture, 192 x 192",
    "1,000 pictures, 192 x 192",
    "one photo, 16 megapixels",
)


def candidates(folder: Path) -> dict[str, list[object]]:
    """Return {name: command} of what runs in a round, its pictures written into `folder`."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    digits = load_digits().images / 16
    many = folder / "many"
    many.mkdir()
    for number, digit in enumerate(digits[:1000]):
        shaded(digit, rng).save(many / f"{number:04}.png")
    ink = enlarged(digits[0], 3000, 500)[..., np.newaxis]
    photo(ink, rng, (0.96, 0.95, 0.93), (0.1, 0.15, 0.5)).save(folder / "large.jpg")
    predict = [sys.executable, "-m", "handwriting.predict"]
    return {
        BASE: [sys.executable, "-c", "import tensorflow"],
        ONE: [*predict, many / "0000.png"],
        MANY: [*predict, many],
        LARGE: [*predict, folder / "large.jpg"],
    }


def measure(rounds: int) -> Rows:
    """Return the rows of reading.csv, measured anew."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        commands = candidates(Path(folder))
        for number in range(1, rounds + 1):
            for name, command in commands.items():
                result = last_line([sys.executable, "-m", "benchmarks.timed", *command])
                append(
                    "reading",
                    rows,
                    round=number,
                    candidate=name,
                    seconds=round(result["seconds"], 2),
                    peak_bytes=result["peak"],
                )
    return rows


def table(rows: Rows) -> str:
    """Return the table of reading.csv; memory is the most over the rounds."""
    lines = [
        [
            f"`{name}`" if name == BASE else name,
            f"{statistics.median(of(rows, name, 'seconds')):.1f}",
            ranged(ratios(rows, name, BASE)),
            f"{max(of(rows, name, 'peak_bytes')) / 1e6:.0f}",
        ]
        for name in names(rows)
    ]
    more = [a - b for a, b in pairs(rows, MANY, ONE, "seconds")]
    titles = ["", "seconds, median", "against `import tensorflow`, median (range)"]
    return (
        markdown([*titles, "peak memory, MB"], lines)
        + f"\n\n999 pictures more take {statistics.median(more):.1f} s "
        f"({min(more):.1f} to {max(more):.1f}) more; n = {len(names(rows, 'round'))} rounds."
    )


def main(argv: list[str] | None = None) -> None:
    print(table(measure(parser(__doc__).parse_args(argv).rounds)))


if __name__ == "__main__":
    raise SystemExit(run(main))
