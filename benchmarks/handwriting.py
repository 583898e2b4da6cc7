"""How well do models read other people's digits, as files?

    python -m benchmarks.handwriting [--model default=models/cnn.keras accurate=accurate.keras]

Six variants are of scikit-learn's 1,797 digits (43 writers, 8 x 8 pixels; never trained on), the
last ones of MNIST's test digits, drawn large with other pens on other paper. Every picture is
written as a PNG and read as `handwriting.predict` reads it; one that is refused counts as wrong.
Nothing of it is random from run to run: one round is enough. Writes results/handwriting.csv, one
row per variant and model; name all the models that it is to have.
"""

import argparse
import math
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.commands import RAW
from benchmarks.harness import Candidate, Rows, markdown, measure, names, parser
from benchmarks.variants import PENS, SIX, Variant
from cnn.base.errors import UserError
from cnn.base.npz import read_arrays
from cnn.base.program import run
from cnn.published.datasets import ARRAYS, PUBLISHED, difference
from handwriting.predict import load_reader, probabilities_of, read_digit


def read_as_files(digits: np.ndarray, variant: Variant) -> tuple[np.ndarray, int]:
    """Return what a network sees of digits written as PNGs, uint8 (n, 28, 28), and the refusals."""
    rng = np.random.default_rng(0)
    seen, refused = [], 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digit.png"
        for digit in digits:
            variant(digit, rng).save(file)
            try:
                seen.append(read_digit(file)[0])
            except UserError:
                refused += 1
                seen.append(np.zeros((28, 28), dtype=np.uint8))
    return np.stack(seen), refused


def accuracy(model, seen: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images, uint8 (n, 28, 28), that a Keras model reads correctly."""
    parts = np.array_split(seen, max(1, len(seen) // 250))
    predicted = np.concatenate([probabilities_of(model, part).argmax(axis=1) for part in parts])
    return float((predicted == labels).mean())


def mnist(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's test images, uint8 (10000, 28, 28), and labels, int64.

    Raises
    ------
    UserError
        The npz is unreadable, or holds other data.
    """
    arrays = dict(zip(ARRAYS, read_arrays(path, ARRAYS), strict=True))
    if problem := difference(PUBLISHED["mnist"], arrays):
        raise UserError(f"{path}: is not MNIST: {problem}; name another with --mnist")
    return arrays["x_test"], arrays["y_test"].astype(np.int64)


def candidates_of(models: dict[str, Path], path: Path, pens: int, most: int) -> list[Candidate]:
    """Return each variant with each model.

    Parameters
    ----------
    models : {label: file}.
    path : npz with MNIST.
    pens : MNIST digits for each pen.
    most : digits of any variant.
    """
    from sklearn.datasets import load_digits

    images, labels = mnist(path)
    others = load_digits()
    theirs, few = (others.images / 16, others.target), (images[:pens], labels[:pens])
    variants = {f"scikit-learn: {name}": (*theirs, variant) for name, variant in SIX.items()}
    variants["MNIST as it is"] = images, labels, lambda digit, rng: Image.fromarray(digit)
    variants |= {f"MNIST: {name}": (*few, variant) for name, variant in PENS.items()}
    readers = {label: load_reader(model) for label, model in models.items()}

    @cache
    def pictures(name: str) -> tuple[np.ndarray, int]:
        digits, _, variant = variants[name]
        return read_as_files(digits[:most], variant)

    def measured(name: str, label: str) -> Callable[[int], dict[str, object]]:
        def read(_: int) -> dict[str, object]:
            seen, refused = pictures(name)
            share = accuracy(readers[label], seen, variants[name][1][:most])
            return {"n": len(seen), "accuracy": round(share, 6), "refused": refused}

        return read

    return [
        ({"digits": name, "model": label}, measured(name, label))
        for name in variants
        for label in readers
    ]


def table(rows: Rows) -> str:
    """Return the table of handwriting.csv: one row per variant, one column per model."""
    models = names(rows, "model")
    lines, errors = [], []
    for digits in names(rows, "digits"):
        here = {row["model"]: row for row in rows if row["digits"] == digits}
        first = next(iter(here.values()))
        shares = [float(here[model]["accuracy"]) if model in here else None for model in models]
        errors += [math.sqrt(x * (1 - x) / int(first["n"])) for x in shares if x is not None]
        read = ["" if share is None else f"{share:.4f}" for share in shares]
        lines.append([digits, f"{int(first['n']):,}", *read, first["refused"]])
    return (
        markdown(["digits, as PNG files", "n", *models, "refused"], lines)
        + "\n\nThe share of n digits that is read correctly, one model per column. The choice of "
        f"the digits alone gives a standard error of at most {max(errors):.3f}."
    )


def labelled(text: str) -> tuple[str, Path]:
    """Return the two parts of LABEL=FILE."""
    label, equals, path = text.partition("=")
    if not (label and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=FILE")
    return label, Path(path)


def main(argv: list[str] | None = None) -> None:
    reader = parser(__doc__, rounds=1)
    reader.add_argument("--mnist", type=Path, default=RAW, metavar="NPZ", help="what fetch wrote")
    reader.add_argument(
        "--model",
        type=labelled,
        nargs="+",
        default=[("default", Path("models/cnn.keras"))],
        metavar="LABEL=FILE",
    )
    reader.add_argument("--pens", type=int, default=500, help="MNIST digits for each pen")
    reader.add_argument("--most", type=int, default=10_000, help="digits in any row")
    arguments = reader.parse_args(argv)
    models = dict(arguments.model)
    candidates = candidates_of(models, arguments.mnist, arguments.pens, arguments.most)
    print(table(measure("handwriting", candidates, arguments.rounds, arguments.only)))


if __name__ == "__main__":
    raise SystemExit(run(main))
