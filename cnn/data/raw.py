"""Images as they were given, before anything is normalized or split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.published.datasets import Published

SPLITS = ("train", "validation", "test")
# What people call them: folders, files, arrays, the values of a column; FER2013 has the last two.
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "publictest"), "validation"),
    **dict.fromkeys(("test", "testing", "t10k", "privatetest"), "test"),
}
MOST = 10  # files or values that a line names


class Options(NamedTuple):
    """What to make of the images.

    size : pixels, height and width to which each image is resized; None keeps its own.
    channels : 1 for grey, 3 for colour; None for what the images are.
    fit : "pad", "stretch" or "crop": how an image that is no square becomes one of `size`.
    transpose : whether rows and columns of images that are given as arrays change places.
    scratch : the folder with room for images that cannot be mapped where they are; None for the
        system's.
    """

    size: int | None = None
    channels: int | None = None
    fit: str = "pad"
    transpose: bool = False
    scratch: Path | None = None

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width), or None."""
        return None if self.size is None else (self.size, self.size)


class Split(NamedTuple):
    """Images that belong together.

    images : uint8 (n, h, w, c) in [0, 255], or float32 in [0, 1].
    labels : int64 (n,), index into the classes.
    groups : str (n,), whose images must not be separated, "" for an image on its own; None where
        nothing is known of groups.
    names : of the files, n; None where the images have none.
    """

    images: NDArray
    labels: NDArray[np.int64]
    groups: NDArray[np.str_] | None = None
    names: Sequence[str] | None = None


class Raw(NamedTuple):
    """Images as they were given.

    splits : those of SPLITS that were given; train is always there.
    classes : names, in the order of the labels.
    notes : what the user should know, one line each.
    format : what was read, in words.
    published : the published data set that this is to the bit, if it is one.
    """

    splits: dict[str, Split]
    classes: list[str]
    notes: list[str]
    format: str
    published: Published | None = None


def split_of(name: str) -> str | None:
    """Return which of SPLITS a name speaks of, by its words: "x_train", "mnist_test.csv"."""
    words = re.split(r"[\W_]+", name.lower())
    return next((WORDS[word] for word in words if word in WORDS), None)


def some(names: Sequence[object]) -> str:
    """List the first MOST of some names, and say how many more there are."""
    more = len(names) - MOST
    return ", ".join(map(str, names[:MOST])) + (f" and {more:,} more" if more > 0 else "")


def encode(given: dict[str, Sequence[str]]) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """Return the classes, which are the labels of the training images, and the labels as numbers.

    Classes stand in the order of their names, or of their numbers where all are whole numbers.

    Raises
    ------
    UserError
        Another split has a label that training has not.
    """
    classes = sorted(set(given["train"]))
    if all(re.fullmatch(r"-?\d+", name) for name in classes):
        classes.sort(key=int)
    index = {name: label for label, name in enumerate(classes)}
    for split, labels in given.items():
        if unknown := sorted(set(labels) - set(index)):
            raise UserError(f"{split} has the class {some(unknown)}, which training has not")
    return classes, {
        split: np.array([index[label] for label in labels], np.int64)
        for split, labels in given.items()
    }
