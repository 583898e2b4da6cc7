"""Read IDX files, the format of MNIST (LeCun et al.), under the names that people publish them.

MNIST, Fashion-MNIST and KMNIST: train-images-idx3-ubyte.gz, or train-images.idx3-ubyte; EMNIST:
emnist-letters-train-images-idx3-ubyte.gz, which lies transposed; QMNIST: qmnist-train-labels-
idx2-int.gz, whose rows name the writer too. Packed by gzip or not.
"""

import gzip
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.files import read_bytes
from cnn.base.npz import ChunkedArray, chunk_slices, to_temp_file
from cnn.data.arrays import check_lengths, note_if_transposed, published_as, to_images
from cnn.data.raw import Options, Raw, Split, encode, split_of

NAME = re.compile(
    r"(?P<set>.*?)[-_.]?(?P<split>train|valid|validation|val|test|t10k)[-_.]"
    r"(?P<kind>images|labels)[-_.]idx[1-4][-_.](?:ubyte|byte|int)(?:\.gz)?",
    re.IGNORECASE,
)
DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
LONGEST_MAPPING = 2**20  # bytes


def recognizes(path: Path) -> bool:
    """Tell whether a folder has IDX files, by their names."""
    return path.is_dir() and any(NAME.fullmatch(file.name) for file in path.iterdir())


def is_one(path: Path) -> bool:
    """Tell whether a file is one of them: alone it has images or labels only."""
    return NAME.fullmatch(path.name) is not None


def read(path: Path, options: Options) -> Raw:
    """Return what the IDX files of a folder hold.

    Raises
    ------
    UserError
        Names the file, what is wrong and what to do.
    """
    files, left = _files(path)
    (prefix,) = {name for name, *_ in files}
    notes = [f"{len(left):,} left out, no IDX files: {', '.join(left[:10])}"] if left else []
    images, labels, groups = {}, {}, {}
    for split in ("train", "validation", "test"):
        pair = [files.get((prefix, split, kind)) for kind in ("images", "labels")]
        if not any(pair):
            continue
        if not all(pair):
            there = pair[0] or pair[1]
            raise UserError(
                f"has {there.name} but not the {'images' if pair[1] else 'labels'} for it"
            )
        images[split], table = (_array(file, options) for file in pair)
        labels[split] = table[:, 0] if table.ndim == 2 else table
        if table.ndim == 2 and table.shape[1] > 2:  # QMNIST's
            groups[split] = table[:, 2].astype(str)
        if images[split].ndim != 3 and images[split].ndim != 4 or labels[split].ndim != 1:
            raise UserError(
                f"{pair[0].name} is {images[split].shape}, {pair[1].name} {table.shape}"
            )
    if "train" not in images:
        raise UserError(f"has no IDX files of training, but {min(f.name for f in files.values())}")
    published = published_as(images, labels)
    if published:
        classes = list(published.classes)
        encoded = {split: each.astype(np.int64) for split, each in labels.items()}
    else:
        classes, encoded = encode(
            {s: [str(v) for v in each.tolist()] for s, each in labels.items()}
        )
        classes = _names_of(path, prefix, classes)
    splits = {}
    for split in list(images):
        x, y = files[prefix, split, "images"].name, files[prefix, split, "labels"].name
        each = to_images(x, images.pop(split), options, notes)
        splits[split] = Split(each, encoded[split], groups.get(split))
        check_lengths(x, splits[split], y)
    if not published:
        notes += note_if_transposed(prefix, splits["train"].images, len(classes), options)
    return Raw(splits, classes, notes, "IDX files", None if options.transpose else published)


def _files(path: Path) -> tuple[dict[tuple[str, str, str], Path], list[str]]:
    """Return {(name of the data set, split, kind): file}, and what else there is."""
    files: dict[tuple[str, str, str], Path] = {}
    left, ranked = [], defaultdict(set)
    for file in sorted(path.iterdir()):
        match = NAME.fullmatch(file.name)
        if not match:
            if not file.name.startswith(".") and not file.name.endswith("-mapping.txt"):
                left.append(file.name)
            continue
        key = match["set"].lower(), split_of(match["split"]), match["kind"].lower()
        if key in files and file.name.removesuffix(".gz") != files[key].name:
            raise UserError(f"has {files[key].name} and {file.name}; keep one of them")
        files.setdefault(key, file)  # the unpacked one sorts first
        ranked[key[0]].add(file.name)
    if len(ranked) > 1:
        raise UserError(
            f"has IDX files of {len(ranked)} data sets, {', '.join(sorted(ranked))}; "
            "put those of one into a folder of its own"
        )
    return files, left


def _array(path: Path, options: Options) -> NDArray:
    """Return the array in an IDX file, mapped."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # whatever its name says: browsers unpack
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in DTYPES or not head[3]:
                raise UserError(f"{path}: begins with {head.hex()!r}, is no IDX file")
            dtype, sizes = np.dtype(DTYPES[head[2]]), file.read(4 * head[3])
            shape = tuple(np.frombuffer(sizes, ">u4").tolist())
            if len(shape) < head[3] or 0 in shape:
                raise UserError(f"{path}: has no content")

            def chunks() -> Iterator[NDArray]:
                row = math.prod(shape[1:]) * dtype.itemsize
                for rows in chunk_slices(shape[0], row):
                    size = (rows.stop - rows.start) * row
                    content = file.read(size)
                    if len(content) < size:
                        raise UserError(f"{path}: is cut short: its head says {shape}")
                    yield np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))

            array = ChunkedArray(shape, dtype.newbyteorder("="), chunks())
            whole = to_temp_file(array, options.scratch)
            if file.read(1):
                raise UserError(f"{path}: is longer than its head says: {shape}")
            return whole
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise UserError(f"{path}: is damaged: {error}; bring it again") from None


def _names_of(path: Path, prefix: str, classes: list[str]) -> list[str]:
    """Return the classes by the characters of EMNIST's mapping, where that file is there.

    Its lines hold a label and the ASCII code of its character, or of its capital and its small one.
    """
    file = path / f"{prefix}-mapping.txt"
    if not file.is_file():
        return classes
    lines = read_bytes(file, LONGEST_MAPPING).decode("ascii", "replace").split("\n")
    try:
        found = {line.split()[0]: chr(int(line.split()[1])) for line in lines if line.strip()}
        names = [found[label] for label in classes]
    except (ValueError, IndexError, KeyError):
        raise UserError(
            f"{file}: does not map the labels to characters; remove or mend it"
        ) from None
    # A file system that ignores case must be able to hold a folder of each.
    both = {name.upper() for name in names} & {name for name in names if name.isupper()}
    return [f"small {name}" if name.islower() and name.upper() in both else name for name in names]
