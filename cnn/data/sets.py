"""A set of labelled images: one npz with `images`, `labels` and `classes`.

The npz says all that the code behind `prepare` knows of the data: height, width, channels, the
number of the classes and their names.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError, brief
from cnn.base.npz import extremes, in_chunks, read_arrays, write_arrays

SIDES = (8, 256)  # pixels, least and most of height and width
CLASSES = (2, 100)
LONGEST_NAME = 60  # characters
# Class names stand in Markdown tables and, raw, in the page that `dvc plots` writes.
FORBIDDEN = "<>|`\\"


class Data(NamedTuple):
    """n labelled images.

    images : float32 (n, height, width, channels) in [0, 1]; 0 is paper, 1 is ink. Those that were
        loaded are mapped: read-only, and in memory where they are used.
    labels : int64 (n,), index into classes.
    classes : str (k,), their names.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: NDArray[np.str_]


def save(path: str | Path, data: Data) -> None:
    """Write a set of labelled images."""
    write_arrays(path, **data._asdict())


def load(path: str | Path) -> Data:
    """Return the set of labelled images in an npz, of the form that `Data` documents.

    Raises
    ------
    UserError
        The file is unreadable, or an array has another shape, dtype or range.
    """
    data = Data(*read_arrays(path, Data._fields))
    if problem := problem_of(data):
        raise UserError(f"{path}: {problem}; run 'dvc repro', which makes it again")
    return data


def problem_of(data: Data) -> str:
    """Say in what the arrays are not of the form that `Data` documents, "" if they are."""
    images, labels, classes = data
    if classes.ndim != 1 or classes.dtype.kind != "U":
        return f"classes are {classes.dtype} {classes.shape}, not str (k,)"
    if problem := problem_of_classes(classes.tolist()):
        return problem
    if images.dtype != np.float32 or images.ndim != 4 or not len(images):
        return f"images are {images.dtype} {images.shape}, not float32 (n > 0, h, w, c)"
    if problem := problem_of_shape(images.shape[1:]):
        return problem
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        return f"labels are {labels.dtype} {labels.shape}, not int64 ({len(images)},)"
    # min and max are NaN when a pixel is, so that `not (...)` refuses NaN too.
    low, high = extremes(images)
    if not (low >= 0 and high <= 1):
        return f"pixels lie in [{low}, {high}], not in [0, 1]"
    if labels.min() < 0 or labels.max() >= len(classes):
        return (
            f"labels lie in [{labels.min()}, {labels.max()}], "
            f"not in [0, {len(classes) - 1}] of {len(classes)} classes"
        )
    return ""


def problem_of_shape(shape: tuple[int, ...]) -> str:
    """Say what is wrong with an image's (height, width, channels), "" if nothing is."""
    height, width, channels = shape
    low, high = SIDES
    if not (low <= height <= high and low <= width <= high):
        return f"images are {height} x {width} pixels; sides may have {low} to {high}"
    if channels not in (1, 3):
        return f"images have {channels} channels; 1 (grey) or 3 (colour) are possible"
    return ""


def problem_of_classes(names: list[str]) -> str:
    """Say what is wrong with the names of the classes, "" if nothing is."""
    low, high = CLASSES
    if not low <= len(names) <= high:
        return f"{len(names)} classes ({brief(names)}); {low} to {high} are possible"
    for name in names:
        if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME:
            return f"class {brief(name)}: a name has 1 to {LONGEST_NAME} characters, no blank ends"
        if not name.isprintable() or set(name) & set(FORBIDDEN):
            return f"class {name!r}: a name is of printable characters, none of {FORBIDDEN}"
    seen: dict[str, str] = {}
    for name in names:
        # A file system that ignores case, or how an accent is coded, makes one folder of the two.
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            return f"classes {seen[key]!r} and {name!r} differ by case at most; rename one"
        seen[key] = name
    return ""


def digests(chunks: Iterable[NDArray], salt: str = "") -> NDArray[np.uint64]:
    """Return a hash of each image in the chunks, which are (m, ...): uint64 (n,).

    BLAKE2b (RFC 7693) with 8 bytes, keyed by `salt`. Among a million different images two share
    one with a probability of 3e-8.
    """
    make = partial(hashlib.blake2b, digest_size=8, key=salt.encode())
    found = bytearray()
    for chunk in chunks:
        for image in chunk:
            found += make(image.tobytes()).digest()
    return np.frombuffer(found, ">u8").astype(np.uint64)


def fingerprints(images: NDArray) -> list[str]:
    """Return the images' `digests` as 16 hexadecimal digits each; images are (n, ...)."""
    return [f"{digest:016x}" for digest in digests(in_chunks(images))]


def check_alike(path: Path, one: Data, other_path: Path, other: Data) -> None:
    """Raise a UserError where two sets differ in the shape of their images or in their classes."""
    shapes = one.images.shape[1:], other.images.shape[1:]
    if shapes[0] != shapes[1] or list(one.classes) != list(other.classes):
        raise UserError(
            f"{other_path}: has {shapes[1]} images of {len(other.classes)} classes, {path} "
            f"{shapes[0]} of {len(one.classes)} or of other names; run 'dvc repro'"
        )
