"""Images as they were given, before anything is checked or normalized."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.published.datasets import Published

SPLITS = ("train", "test")  # in which images may be given


class Raw(NamedTuple):
    """Images as they were given.

    x_train, x_test : uint8 (n, h, w, c) in [0, 255], or float32 in [0, 1]; x_test may be None.
    y_train, y_test : int64 (n,), index into classes; y_test is None with x_test.
    classes : names, in the order of the labels.
    notes : what the user should know, one line each.
    published : the published data set that this is to the bit, if it is one.
    """

    x_train: NDArray
    y_train: NDArray[np.int64]
    x_test: NDArray | None
    y_test: NDArray[np.int64] | None
    classes: list[str]
    notes: list[str]
    published: Published | None = None
