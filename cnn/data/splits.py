"""Which images go into which split, train, validation or test; and how they are normalized."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.npz import ChunkedArray, chunk_slices
from cnn.data.raw import Raw
from cnn.data.sets import digests

NAMES = ("train", "validation", "test")


def normalize(images: NDArray) -> NDArray[np.float32]:
    """Return uint8 in [0, 255], or floats in [0, 1], as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


class Subset(NamedTuple):
    """Some of the images that were given; never held in memory as a whole.

    images : all that were given, uint8 in [0, 255] or float32 in [0, 1], (m, h, w, c).
    labels : int64 (m,).
    rows : int64 (n,), which of the m it has.
    """

    images: NDArray
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]

    def chunks(self) -> Iterator[NDArray]:
        """Yield its images as they were given, some at a time."""
        size = 4 * math.prod(self.images.shape[1:])  # bytes of an image when it is normalized
        return (self.images[self.rows[each]] for each in chunk_slices(len(self.rows), size))

    def normalized(self) -> ChunkedArray:
        """Return its images as float32 (n, h, w, c) in [0, 1]."""
        shape = len(self.rows), *self.images.shape[1:]
        return ChunkedArray(shape, np.dtype(np.float32), map(normalize, self.chunks()))

    def counts(self, classes: int) -> NDArray[np.int64]:
        """Return the number of its images of each class, int64 (classes,)."""
        return np.bincount(self.labels[self.rows], minlength=classes)


def last(n: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices before the last `share` of n, and those last, as Keras splits them."""
    start = int(n * (1 - share))
    return np.arange(start), np.arange(start, n)


def drawn_by_class(subset: Subset, share: float, seed: int, purpose: str) -> tuple[Subset, Subset]:
    """Return what remains, and a share of each class that is drawn, at least one image.

    By a hash of image, seed and purpose, not by place: when more images arrive, most of those that
    were drawn are drawn again, so that versions of the data can be compared, and equal images fall
    on the same side as far as the share allows.
    """
    order = subset.rows[np.argsort(digests(subset.chunks(), f"{purpose} {seed}"), kind="stable")]
    drawn = []
    for label in np.unique(subset.labels[subset.rows]):
        members = order[subset.labels[order] == label]
        drawn.append(members[: max(1, round(share * len(members)))])
    chosen = np.sort(np.concatenate(drawn))
    return subset._replace(rows=np.setdiff1d(subset.rows, chosen)), subset._replace(rows=chosen)


def split(raw: Raw, validation_share: float, test_share: float, seed: int) -> dict[str, Subset]:
    """Return a subset for each of NAMES.

    A published data set was shuffled by those who published it: its last images are a fair sample,
    and those that Keras sets aside. One's own images may lie by class, so they are drawn from each.

    Raises
    ------
    UserError
        A split would lack a class.
    """
    train = Subset(raw.x_train, raw.y_train, np.arange(len(raw.y_train)))
    if raw.x_test is None:
        train, test = drawn_by_class(train, test_share, seed, "test")
    else:
        test = Subset(raw.x_test, raw.y_test, np.arange(len(raw.y_test)))
    if raw.published:
        both = last(len(train.rows), validation_share)
        train, validation = (train._replace(rows=rows) for rows in both)
    else:
        train, validation = drawn_by_class(train, validation_share, seed, "validation")
    splits = dict(zip(NAMES, (train, validation, test), strict=True))
    for name, subset in splits.items():
        absent = np.flatnonzero(subset.counts(len(raw.classes)) == 0)
        # A class may be too rare for the validation images, but there have to be some.
        if len(absent) and (name != "validation" or not len(subset.rows)):
            raise UserError(
                f"prepare.validation_share {validation_share:g} and prepare.test_share "
                f"{test_share:g} leave no {name} image of class {raw.classes[absent[0]]}; choose "
                "others, or add images of it"
            )
    return splits
