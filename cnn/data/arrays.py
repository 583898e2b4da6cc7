"""Bring images and labels that are given as arrays into the form of `cnn.data.raw.Split`."""

import math
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.base.errors import UserError
from cnn.base.npz import ChunkedArray, extremes, in_chunks, to_temp_file
from cnn.data.pictures import to_pixels
from cnn.data.raw import Options, Split
from cnn.data.sets import CLASSES
from cnn.published.datasets import ARRAYS, Published, recognize

# How much wider than high ink is on average where digits or letters lie transposed. MNIST's is 4.9
# pixels higher than wide, Fashion-MNIST's 2.3.
WIDER = 2.0
DARK = 64  # of 255; images with no brighter pixel were hardly meant so
ALPHABETS = (10, 26, 27, 36, 37, 47, 62)  # numbers of classes: digits, letters, EMNIST's unions


def to_images(name: str, images: NDArray, options: Options, notes: list[str]) -> NDArray:
    """Return images as `Split` has them; what is odd becomes a note.

    Parameters
    ----------
    images : (n, h, w), (n, h, w, c), (n, c, h, w), or flat, (n, pixels); whole numbers in
        [0, 255] or floats in [0, 1].

    Raises
    ------
    UserError
        They are of another form.
    """
    if images.ndim not in (2, 3, 4) or images.dtype.kind not in "uif":
        raise UserError(
            f"{name} is {images.dtype} {images.shape}; "
            "expected uint8 or float (n, h, w) or (n, h, w, channels)"
        )
    if not images.size:
        raise UserError(f"{name} has no images")
    if images.ndim == 2:
        shape = square(images.shape[1])
        if shape is None:
            raise UserError(f"{name} has {images.shape[1]} pixels per image, which is no square")
        notes.append(f"{name} has {images.shape[1]} pixels per image, {shape[0]} x {shape[1]}")
        images = images.reshape(-1, *shape)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        notes.append(f"{name} is {images.shape}: channels first, brought to (n, h, w, channels)")
        images = np.moveaxis(images, 1, 3)
    if options.transpose:
        images = images.swapaxes(1, 2)
    images, brightest = _to_uint8_or_float32(name, images, options)
    if images.dtype == np.uint8 and brightest < DARK:
        notes.append(
            f"{name}: its brightest pixel is {brightest} of 255; scale them if it is white"
        )
    if images.dtype == np.float32:
        notes.append(f"{name} lies in [0, 1] already and is taken as it is")
    if options.sides is not None or options.channels not in (None, images.shape[3]):
        images = _resized(name, images, options)
    return images


def square(pixels: int) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of a square, grey or else in colour; None if it is none."""
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if side * side * channels == pixels:
            return side, side, channels
    return None


def _to_uint8_or_float32(
    name: str, images: NDArray, options: Options
) -> tuple[NDArray, np.generic]:
    """Return images in a dtype that `Split` admits, and their greatest value."""
    low, high = extremes(images)
    whole = images.dtype.kind != "f"
    if whole and not (low >= 0 and high <= 255):
        more = f"; '{name} // 257' makes 8 bits of 16" if low >= 0 and high < 2**16 else ""
        raise UserError(f"{name} has whole numbers from {low} to {high}; expected 0 to 255{more}")
    if not whole and not (low >= 0 and high <= 1):
        raise UserError(
            f"{name} has floats from {low:g} to {high:g}; expected floats in [0, 1], or uint8"
        )
    dtype = np.dtype(np.uint8 if whole and high > 1 else np.float32)
    if images.dtype != dtype:
        chunks = (chunk.astype(dtype) for chunk in in_chunks(images))
        images = to_temp_file(ChunkedArray(images.shape, dtype, chunks), options.scratch)
    return images, high


def _resized(name: str, images: NDArray, options: Options) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise UserError(f"{name} is of floats; prepare.image_size and prepare.channels need uint8")
    if images.shape[3] not in (1, 3):
        raise UserError(f"{name} has {images.shape[3]} channels; 1 or 3 are possible")
    squeezed = images[..., 0] if images.shape[3] == 1 else images
    pixels = (
        to_pixels(
            Image.fromarray(np.ascontiguousarray(each)),
            options.sides,
            options.channels,
            options.fit,
        )
        for each in squeezed
    )
    first = next(pixels)
    whole = ChunkedArray((len(images), *first.shape), first.dtype, chain([first], pixels))
    return to_temp_file(whole, options.scratch)


def to_labels(name: str, labels: NDArray) -> NDArray[np.int64]:
    """Return labels (n,), (n, 1) or one-hot (n, k) as int64 (n,).

    Raises
    ------
    UserError
        They are no whole numbers, or an image has several.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "uifb" and np.isin(labels, (0, 1)).all():
        if (labels.sum(axis=1) == 1).all():
            return labels.argmax(axis=1).astype(np.int64)
        raise UserError(f"{name} has images of several classes, or of none; each must have one")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{name} is {labels.dtype} {labels.shape}; expected whole numbers (n,), "
            f"as {name}.astype('int64') makes them"
        )
    if not len(labels):
        raise UserError(f"{name} has no labels")
    return labels.astype(np.int64)


def check_labels(name: str, labels: NDArray[np.int64], classes: list[str]) -> None:
    """Refuse labels that are no index into the classes or, without those, have gaps."""
    found = np.unique(labels)
    if classes:
        if found[0] < 0 or found[-1] >= len(classes):
            raise UserError(
                f"{name} holds labels from {found[0]} to {found[-1]}; "
                f"{len(classes)} classes are counted from 0 to {len(classes) - 1}"
            )
        return
    if found[0] != 0:
        raise UserError(f"{name} starts at {found[0]}; labels count the classes from 0")
    if found[-1] >= CLASSES[1]:
        raise UserError(f"{name} has labels up to {found[-1]}; at most {CLASSES[1]} classes")
    gaps = np.setdiff1d(np.arange(found[-1] + 1), found)
    if len(gaps):
        raise UserError(f"{name} has no image of label {gaps[0]}; labels count without gaps")


def published_as(images: dict[str, NDArray], labels: dict[str, NDArray]) -> Published | None:
    """Return which published data set the images and labels of each split are to the bit."""
    if set(images) != {"train", "test"}:
        return None
    given = (images["train"], labels["train"], images["test"], labels["test"])
    return recognize(dict(zip(ARRAYS, given, strict=True)))


def check_lengths(x: str, split: Split, y: str) -> None:
    """Refuse another number of images than of labels; x and y are the names of their arrays."""
    if len(split.images) != len(split.labels):
        raise UserError(f"{x} has {len(split.images)} images, {y} {len(split.labels)} labels")


def note_if_transposed(name: str, images: NDArray, classes: int, options: Options) -> list[str]:
    """Return a note if characters seem to lie on their side, as EMNIST's do."""
    if options.transpose or classes not in ALPHABETS or images.dtype != np.uint8:
        return []
    if "emnist" not in name.lower():
        ink = images[:: max(1, len(images) // 1000)].max(axis=3) > 127
        height, width = (_extent(ink.any(axis=axis)) for axis in (2, 1))
        if (width - height).mean() < WIDER:
            return []
    return [
        "the characters seem to lie transposed, as EMNIST's do; prepare.transpose: true turns them"
    ]


def _extent(there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return from the first to the last True of each row how many there are, 0 without one."""
    n = there.shape[1] - there.argmax(axis=1) - there[:, ::-1].argmax(axis=1)
    return np.where(there.any(axis=1), n, 0)
