"""Check and normalize the raw images, and set the validation images apart.

    python -m stages.prepare --raw data/raw/mnist.npz --train data/prepared/train.npz \
        --validation data/prepared/validation.npz --test data/prepared/test.npz

Reads x_train, y_train, x_test, y_test: uint8 (n, 28, 28) and (n,). Writes three npz, each with
`images` float32 (n, 28, 28, 1) in [0, 1] (0 is paper, 1 is ink) and `labels` int64 (n,) in 0-9.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.dataset import DIGITS, read_arrays, write_arrays
from stages.params import Section, UserError, load, run


class PrepareParams(Section):
    """Section `prepare` of params.yaml."""

    validation_share: float = Field(gt=0, lt=1)


def check_raw(name: str, raw_images: np.ndarray, labels: np.ndarray) -> None:
    """Refuse what cannot be MNIST-like: uint8 (n, 28, 28), light ink on black, labels 0-9.

    Raises
    ------
    UserError
        Names the set (`train` or `test`), what was found and what is expected.
    """
    if raw_images.dtype != np.uint8 or raw_images.ndim != 3 or raw_images.shape[1:] != (28, 28):
        raise UserError(
            f"x_{name} is {raw_images.dtype} {raw_images.shape}; expected uint8 (n, 28, 28)"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise UserError(f"y_{name} is {labels.dtype} {labels.shape}; expected uint8 (n,)")
    if len(raw_images) != len(labels):
        raise UserError(f"x_{name} has {len(raw_images)} images, y_{name} {len(labels)} labels")
    absent = set(range(DIGITS)) - set(np.unique(labels).tolist())
    if absent:
        raise UserError(f"y_{name} lacks the digits {sorted(absent)}; expected all of 0-9")
    if labels.max() >= DIGITS:
        raise UserError(f"y_{name} holds the label {labels.max()}; expected 0-9")
    # Already divided by 255 the brightest pixel is 1; dark ink on light paper has a light mean.
    low, high, mean = raw_images.min(), raw_images.max(), raw_images.mean()
    if low != 0 or high < 128 or mean >= 128:
        raise UserError(
            f"x_{name} has pixels from {low} to {high}, mean {mean:.1f}; "
            "expected light ink on black: from 0 to about 255, mean below 128"
        )


def normalize(raw_images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> dict[str, NDArray]:
    """Return `images` float32 (n, 28, 28, 1) in [0, 1] and `labels` int64 (n,)."""
    return {
        "images": raw_images[..., np.newaxis].astype(np.float32) / np.float32(255),
        "labels": labels.astype(np.int64),
    }


def validation_start(n: int, share: float) -> int:
    """Return the index where validation begins, as Keras' `validation_split=share` sets it."""
    start = int(n * (1 - share))
    if not 0 < start < n:
        raise UserError(
            f"prepare.validation_share is {share}: of {n} images it leaves {start} for training "
            f"and {n - start} for validation; each needs at least one"
        )
    return start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--raw", type=Path, required=True, metavar="NPZ", help="read")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}", type=Path, required=True, metavar="NPZ", help="written")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "prepare", PrepareParams)

    x_train, y_train, x_test, y_test = read_arrays(
        arguments.raw, ("x_train", "y_train", "x_test", "y_test")
    )
    try:
        check_raw("train", x_train, y_train)
        check_raw("test", x_test, y_test)
    except UserError as error:
        raise UserError(f"{arguments.raw}: {error}") from None
    start = validation_start(len(x_train), params.validation_share)

    def write(path: Path, raw_images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> str:
        write_arrays(path, compressed=True, **normalize(raw_images, labels))
        return f"{path}: {len(labels):,} images"

    paths = arguments.train, arguments.validation, arguments.test
    images = x_train[:start], x_train[start:], x_test
    labels = y_train[:start], y_train[start:], y_test
    with ThreadPoolExecutor() as pool:  # zlib, where the time goes, lets other threads run
        for line in pool.map(write, paths, images, labels):
            print(line)


if __name__ == "__main__":
    raise SystemExit(run(main))
