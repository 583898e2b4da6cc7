"""Read and write a set of labelled images: one npz with `images` and `labels`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.integrity import check_recorded, replacing
from stages.params import UserError

IMAGE_SHAPE = (28, 28, 1)
DIGITS = 10


def read_arrays(path: str | Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return the named arrays of an npz that is whole and, if dvc.lock knows it, the recorded one.

    Raises
    ------
    UserError
        The file is missing, damaged (zip checksums included), no npz, or lacks one of `names`.
    """
    check_recorded(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in names if name not in arrays]
            if missing:
                raise UserError(f"{path}: has no array '{missing[0]}'; found {sorted(arrays)}")
            found = [arrays[name] for name in names]  # reading to the end checks the zip's CRC
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: is no readable npz ({error}); run 'dvc repro --force'") from None
    if not all(isinstance(array, np.ndarray) for array in found):
        raise UserError(f"{path}: holds something else than arrays; run 'dvc repro --force'")
    return found


def write_arrays(path: str | Path, *, compressed: bool, **arrays: np.ndarray) -> None:
    """Write an npz, whole or not at all. numpy stamps its entries 1980: same arrays, same bytes."""
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **arrays)


def load(path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images, float32 (n, 28, 28, 1) in [0, 1], and labels, int64 (n,) in 0-9, of an npz.

    Raises
    ------
    UserError
        The file is unreadable, or an array has another shape, dtype or range.
    """
    images, labels = read_arrays(path, ("images", "labels"))
    if images.dtype != np.float32 or images.shape[1:] != IMAGE_SHAPE or not len(images):
        raise UserError(
            f"{path}: images are {images.dtype} {images.shape}, not float32 (n > 0, 28, 28, 1)"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{path}: labels are {labels.dtype} {labels.shape}, not int64 ({len(images)},)"
        )
    # min and max are NaN when a pixel is, so that `not (...)` refuses NaN too.
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise UserError(f"{path}: pixels lie in [{low}, {high}], not in [0, 1]")
    if labels.min() < 0 or labels.max() >= DIGITS:
        raise UserError(f"{path}: labels lie in [{labels.min()}, {labels.max()}], not in [0, 9]")
    return images, labels
