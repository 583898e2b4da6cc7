"""Read the images that `prepare` is given: an npz, or a folder with a folder per class.

An npz has x_train and y_train and may have x_test, y_test and classes. A folder has a folder of
pictures per class, or train/ and test/ above such folders.
"""

from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn.base.errors import UserError
from cnn.base.files import REPAIR
from cnn.base.npz import ChunkedArray, extremes, in_chunks, read_arrays, to_temp_file
from cnn.data.folders import read_folder
from cnn.data.pictures import to_pixels
from cnn.data.raw import SPLITS, Raw
from cnn.data.sets import CLASSES, problem_of_classes, problem_of_shape
from cnn.published.datasets import ARRAYS, recognize


def read(path: Path, size: int | None, channels: int | None, scratch: Path | None = None) -> Raw:
    """Return the labelled images in an npz or a folder, checked; mapped, whatever their size.

    Parameters
    ----------
    size : pixels, height and width to which each image is resized; None keeps its own.
    channels : 1 for grey, 3 for colour; None for what the images are.
    scratch : the folder with room for images that cannot be mapped where they are; None for the
        system's.

    Raises
    ------
    UserError
        Names the file, the folder or the array, what is wrong with it and what to do.
    """
    try:
        reader = read_folder if path.is_dir() else read_npz
        raw = reader(path, None if size is None else (size, size), channels, scratch)
    except UserError as error:
        message = str(error)
        named = message if message.startswith(str(path)) else f"{path}: {message}"
        more = "" if REPAIR in message else "; docs/own-data.md says what is read"
        raise UserError(f"{named}{more}") from None
    if problem := problem_of_classes(raw.classes):
        raise UserError(f"{path}: {problem}")
    if problem := problem_of_shape(raw.x_train.shape[1:]):
        raise UserError(f"{path}: {problem}; prepare.image_size resizes, prepare.channels converts")
    for split, labels in zip(SPLITS, (raw.y_train, raw.y_test), strict=True):
        absent = [] if labels is None else np.setdiff1d(np.arange(len(raw.classes)), labels)
        if len(absent):
            names = ", ".join(raw.classes[label] for label in absent[:5])
            raise UserError(f"{path}: no {split} image of class {names}; each class needs one")
    return raw


def read_npz(
    path: Path, sides: tuple[int, int] | None, channels: int | None, scratch: Path | None
) -> Raw:
    """Return the arrays of an npz in the form of `Raw`; the published data sets get their names.

    `sides` is (h, w); the other parameters and the errors are those of `read`.
    """
    with_test = len(_present(path, ARRAYS[2:])) == 2
    names = ARRAYS if with_test else ARRAYS[:2]
    arrays = dict(zip(names, read_arrays(path, names, scratch), strict=True))
    published = recognize(arrays)
    if published:
        classes = list(published.classes)
    elif _present(path, ("classes",)):
        classes = [str(name) for name in read_arrays(path, ("classes",))[0].ravel()]
    else:
        classes = []
    notes: list[str] = []
    images, labels = {}, {}
    for split in SPLITS if with_test else SPLITS[:1]:
        x, y = f"x_{split}", f"y_{split}"
        images[split] = _pixels(
            x, arrays[x], sides, channels, notes, scratch, strange=published is None
        )
        labels[split] = _labels(y, arrays[y], classes)
        if len(images[split]) != len(labels[split]):
            raise UserError(f"{x} has {len(arrays[x])} images, {y} {len(arrays[y])} labels")
    if not classes:
        classes = [str(label) for label in range(int(labels["train"].max(initial=-1)) + 1)]
    if with_test:
        _same_shape("x_test", images["test"], "x_train", images["train"])
        beyond = labels["test"].max(initial=0)
        if beyond >= len(classes):
            raise UserError(f"y_test holds the label {beyond}, which y_train does not")
    return Raw(
        images["train"],
        labels["train"],
        images.get("test"),
        labels.get("test"),
        classes,
        notes,
        published,
    )


def _present(path: Path, names: tuple[str, ...]) -> list[str]:
    """Return which of `names` an npz holds; none where it cannot be read, which is said later."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [name for name in names if name in arrays]
    except Exception:  # read_arrays says what is wrong
        return []


def _labels(name: str, labels: np.ndarray, classes: list[str]) -> NDArray[np.int64]:
    """Return labels (n,) or (n, 1) as int64 (n,), if they count the classes from 0 without gaps."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{name} is {labels.dtype} {labels.shape}; expected whole numbers (n,), "
            f"as {name}.astype('int64') makes them"
        )
    labels = labels.astype(np.int64)
    found = np.unique(labels)
    if not len(found):
        raise UserError(f"{name} has no labels")
    if len(classes):
        if found[0] < 0 or found[-1] >= len(classes):
            raise UserError(
                f"{name} holds labels from {found[0]} to {found[-1]}; "
                f"{len(classes)} classes are counted from 0 to {len(classes) - 1}"
            )
    elif name == "y_train":
        if found[0] != 0:
            raise UserError(f"{name} starts at {found[0]}; labels count the classes from 0")
        if found[-1] >= CLASSES[1]:
            raise UserError(f"{name} has labels up to {found[-1]}; at most {CLASSES[1]} classes")
        gaps = np.setdiff1d(np.arange(found[-1] + 1), found)
        if len(gaps):
            raise UserError(f"{name} has no image of label {gaps[0]}; labels count without gaps")
    return labels


def _pixels(
    name: str, images: np.ndarray, sides: tuple[int, int] | None, channels: int | None,
    notes: list[str], scratch: Path | None, *, strange: bool,
) -> NDArray:  # fmt: skip
    """Return images (n, h, w) or (n, h, w, c) as `Raw` has them; what is odd becomes a note."""
    if images.ndim not in (3, 4) or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise UserError(
            f"{name} is {images.dtype} {images.shape}; "
            "expected uint8 or float (n, h, w) or (n, h, w, channels)"
        )
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if not images.size:
        raise UserError(f"{name} has no images")
    low, high = extremes(images)
    if images.dtype != np.uint8 and not (low >= 0 and high <= 1):
        raise UserError(
            f"{name} has floats from {low:g} to {high:g}; expected floats in [0, 1], or uint8"
        )
    if images.dtype != np.float32 and (images.dtype != np.uint8 or high <= 1):
        floats = (chunk.astype(np.float32) for chunk in in_chunks(images))
        images = to_temp_file(ChunkedArray(images.shape, np.dtype(np.float32), floats), scratch)
    if strange and images.dtype == np.float32:
        notes.append(f"{name} lies in [0, 1] already and is taken as it is")
    if strange and images.mean() > 0.5 * (1 if images.dtype == np.float32 else 255):
        notes.append(f"{name} is dark on light on the whole; the moves of training fill with black")
    if sides is not None or channels not in (None, images.shape[3]):
        if images.dtype != np.uint8:
            raise UserError(
                f"{name} is of floats; prepare.image_size and prepare.channels need uint8"
            )
        if images.shape[3] not in (1, 3):
            raise UserError(f"{name} has {images.shape[3]} channels; 1 or 3 are possible")
        squeezed = images[..., 0] if images.shape[3] == 1 else images
        pixels = (to_pixels(Image.fromarray(each), sides, channels) for each in squeezed)
        first = next(pixels)
        shape = len(images), *first.shape
        images = to_temp_file(ChunkedArray(shape, first.dtype, chain([first], pixels)), scratch)
    return images


def _same_shape(name: str, images: NDArray, other: str, others: NDArray) -> None:
    if images.shape[1:] != others.shape[1:]:
        raise UserError(f"{name} has images of {images.shape[1:]}, {other} of {others.shape[1:]}")
