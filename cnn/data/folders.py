"""Read a folder of pictures: a folder per class, or train/ and test/ above such folders."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cnn.base.errors import UserError
from cnn.base.npz import ChunkedArray, to_temp_file
from cnn.data.pictures import SUFFIXES, read_picture
from cnn.data.raw import SPLITS, Raw
from cnn.data.sets import problem_of_classes

MOST = 10  # pictures that a refusal names
KINDS = {1: "grey", 3: "in colour"}


def read_folder(
    path: Path, sides: tuple[int, int] | None, channels: int | None, scratch: Path | None = None
) -> Raw:
    """Return the pictures below a folder, in the order of class and file name.

    `sides` is (h, w); the other parameters and the errors are those of `cnn.data.readers.read`.
    """
    names = _subfolders(path)
    splits = [split for split in SPLITS if split in names]
    if splits and set(names) - set(SPLITS):
        other = sorted(set(names) - set(SPLITS))[0]
        raise UserError(f"'{other}' stands next to {splits[0]}/; only train/ and test/ may")
    if splits == ["test"]:
        raise UserError("has test/ but no train/")
    roots = {split: path / split for split in splits} or {"train": path}
    classes = _subfolders(roots["train"])
    if problem := problem_of_classes(classes):
        raise UserError(f"{roots['train']}: {problem}; a folder per class is expected")
    if "test" in roots:
        unknown = sorted(set(_subfolders(roots["test"])) - set(classes))
        if unknown:
            raise UserError(f"{roots['test'] / unknown[0]}: this class is not in training")
    notes: list[str] = []
    files = {
        split: [_pictures(root / name, notes) for name in classes] for split, root in roots.items()
    }
    pictures = _read(path, [*chain(*chain(*files.values()))], sides, channels)
    first = next(pictures)
    pictures = chain([first], pictures)
    images, labels = {}, {}
    for split, by_class in files.items():
        counts = [len(each) for each in by_class]
        labels[split] = np.repeat(np.arange(len(classes)), counts)
        images[split] = to_temp_file(
            ChunkedArray(
                (sum(counts), *first.shape), np.dtype(np.uint8), islice(pictures, sum(counts))
            ),
            scratch,
        )
    if images["train"].mean() > 127:
        notes.append("the pictures are light on the whole; the moves of training fill with black")
    return Raw(
        images["train"], labels["train"], images.get("test"), labels.get("test"), classes, notes
    )


def _subfolders(path: Path) -> list[str]:
    try:
        found = [entry.name for entry in path.iterdir() if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return sorted(name for name in found if not name.startswith("."))


def _pictures(folder: Path, notes: list[str]) -> list[Path]:
    """Return a class's picture files, by name; a note says what else lies there."""
    entries = folder.iterdir() if folder.is_dir() else []
    entries = sorted(entry for entry in entries if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"{folder}: no pictures in this class; add some")
    if len(files) < len(entries):
        other = next(entry for entry in entries if entry.suffix.lower() not in SUFFIXES)
        n = len(entries) - len(files)
        notes.append(f"{folder}: {n} no pictures by name, left out: {other.name}")
    return files


def _read(
    path: Path, files: list[Path], sides: tuple[int, int] | None, channels: int | None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 (h, w, c), all like the first one.

    What cannot be used is left out and, when all have been read, refused in one line.
    """
    first: tuple[Path, tuple[int, ...], int] | None = None
    bad: dict[str, list[Path]] = {}
    for file in tqdm(files, desc=f"{path}", unit="picture", leave=False, disable=None):
        try:
            picture, depth = read_picture(file, sides, channels)
            first = first or (file, picture.shape, depth)
            _check_alike(picture.shape, depth, first, channels)
        except UserError as error:
            bad.setdefault(str(error), []).append(file)
        else:
            yield picture
    if bad:
        raise UserError(_listed(bad))


def _check_alike(
    shape: tuple[int, ...],
    depth: int,
    first: tuple[Path, tuple[int, ...], int],
    channels: int | None,
) -> None:
    """Refuse a picture of another size or kind than the first one."""
    first_file, first_shape, first_depth = first
    if channels is None and depth != first_depth:
        raise UserError(
            f"is {KINDS[depth]}, {first_file} is {KINDS[first_depth]}; "
            "set prepare.channels to 1 or 3"
        )
    if shape[:2] != first_shape[:2]:
        raise UserError(
            f"is {shape[1]}x{shape[0]} pixels, {first_file} {first_shape[1]}x{first_shape[0]}; "
            "set prepare.image_size to resize all"
        )


def _listed(bad: dict[str, list[Path]]) -> str:
    """Say which pictures cannot be used, by the reason: MOST of them, and how many more."""
    listed, room = [], MOST
    for reason, files in bad.items():
        if named := files[:room]:
            listed.append(f"{', '.join(map(str, named))}: {reason}")
            room -= len(named)
    more = sum(map(len, bad.values())) - (MOST - room)
    return "; ".join(listed) + (f"; and {more:,} more pictures" if more else "")
