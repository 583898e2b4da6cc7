"""Read a folder of pictures: a folder per class, or train/ and test/ above such folders."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cnn.data import PARTS, Raw, problem_of_classes
from cnn.errors import UserError
from cnn.npz import Parts, spooled
from cnn.pictures import GREY_MODES, MODES, SUFFIXES, decode, read_file, to_pixels


def read_folder(
    path: Path, size: int | None, channels: int | None, scratch: Path | None = None
) -> Raw:
    """Return the pictures below a folder, in the order of class and file name."""
    names = _subfolders(path)
    parts = [part for part in PARTS if part in names]
    if parts and set(names) - set(PARTS):
        other = sorted(set(names) - set(PARTS))[0]
        raise UserError(f"'{other}' stands beside {parts[0]}/; only train/ and test/ may")
    if parts == ["test"]:
        raise UserError("has test/ but no train/")
    roots = {part: path / part for part in parts} or {"train": path}
    classes = _subfolders(roots["train"])
    if problem := problem_of_classes(classes):
        raise UserError(f"{roots['train']}: {problem}; a folder per class is expected")
    if "test" in roots:
        unknown = sorted(set(_subfolders(roots["test"])) - set(classes))
        if unknown:
            raise UserError(f"{roots['test'] / unknown[0]}: this class is not in training")
    notes: list[str] = []
    images: dict[str, NDArray] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    reference: tuple[Path, tuple[int, ...], int] | None = None
    for part, root in roots.items():
        folders = {root / name: _pictures(root / name, notes) for name in classes}
        for folder, files in folders.items():
            if not files:
                raise UserError(f"{folder}: no pictures in this class; add some")
        if reference is None:
            first = folders[root / classes[0]][0]
            array, depth = _read_picture(first, size, channels)
            reference = first, array.shape, depth
        counts = [len(files) for files in folders.values()]
        labels[part] = np.repeat(np.arange(len(classes)), counts)
        images[part] = spooled(
            Parts(
                (sum(counts), *reference[1]),
                np.dtype(np.uint8),
                _pixels(folders, size, channels, reference),
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
    if not folder.is_dir():
        return []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    others = [entry for entry in entries if entry.suffix.lower() not in SUFFIXES]
    if others:
        notes.append(f"{folder}: {len(others)} no pictures by name, left out: {others[0].name}")
    return [entry for entry in entries if entry not in set(others)]


def _read_picture(
    file: Path, size: int | None, channels: int | None
) -> tuple[NDArray[np.uint8], int]:
    """Return a picture, uint8 (h, w, c), and how many channels the file itself has."""
    try:
        image, more = decode(read_file(file))
        if more:
            raise UserError("has several frames; save each as a picture of its own")
        if image.mode not in MODES:
            raise UserError(f"has pixels of mode {image.mode}; save it in 8 bits")
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return to_pixels(image, size, channels), 1 if image.mode in GREY_MODES else 3


def _pixels(
    folders: dict[Path, list[Path]],
    size: int | None,
    channels: int | None,
    reference: tuple[Path, tuple[int, ...], int],
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures of each folder, uint8 (h, w, c), all like the first one."""
    for folder, files in folders.items():
        bar = {"desc": f"{folder}", "unit": "picture", "leave": False, "disable": None}
        for file in tqdm(files, **bar):
            array, depth = _read_picture(file, size, channels)
            _check_alike(file, array.shape, depth, reference, channels)
            yield array


def _check_alike(
    file: Path,
    shape: tuple[int, ...],
    depth: int,
    reference: tuple[Path, tuple[int, ...], int],
    channels: int | None,
) -> None:
    """Refuse a picture of another size or kind than the first one."""
    first, first_shape, first_depth = reference
    if channels is None and depth != first_depth:
        kinds = {1: "grey", 3: "in colour"}
        raise UserError(
            f"{file}: is {kinds[depth]}, {first} is {kinds[first_depth]}; "
            "set prepare.channels to 1 or 3"
        )
    if shape[:2] != first_shape[:2]:
        raise UserError(
            f"{file}: is {shape[1]}x{shape[0]} pixels, {first} {first_shape[1]}x{first_shape[0]}; "
            "set prepare.image_size to resize all"
        )
