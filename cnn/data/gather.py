"""Decode many pictures into an array per split, all alike; list those that cannot be used."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cnn.base.errors import UserError
from cnn.base.npz import ChunkedArray, to_temp_file
from cnn.data.parallel import Source, read_pictures
from cnn.data.pictures import is_grey
from cnn.data.raw import MOST, Options

KINDS = {1: "grey", 3: "in colour"}


def gather(
    title: str,
    sources: dict[str, Iterable[Source]],
    counts: dict[str, int],
    options: Options,
    notes: list[str],
) -> dict[str, NDArray[np.uint8]]:
    """Return the pictures of each split, uint8 (n, h, w, c), mapped.

    Parameters
    ----------
    title : of the progress bar.
    sources : of each split, iterated over once; counts : how many there are.
    notes : to which what is odd is added.

    Raises
    ------
    UserError
        Some pictures cannot be used; all are read before the first MOST of them are named.
    """
    if options.transpose:
        raise UserError("prepare.transpose turns arrays; pictures in files are read as they look")
    named = chain.from_iterable(sources.values())
    bar = tqdm(named, title, sum(counts.values()), unit="picture", leave=False, disable=None)
    kinds: set[bool] = set()  # whether a picture in colour has but greys
    pictures = _alike(bar, options, kinds)
    first = next(pictures)
    pictures = chain([first], pictures)
    images = {}
    for split, n in counts.items():
        whole = ChunkedArray((n, *first.shape), first.dtype, islice(pictures, n))
        images[split] = to_temp_file(whole, options.scratch)
    if kinds == {True}:
        notes.append("the pictures are grey, stored as colour; prepare.channels: 1 makes them grey")
    return images


def _alike(
    sources: Iterable[Source], options: Options, kinds: set[bool]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures, uint8 (h, w, c), all like the first one.

    What cannot be used is left out and, when all have been read, refused in one line.
    """
    first: tuple[str, tuple[int, ...]] | None = None
    bad: dict[str, list[str]] = {}
    for name, found in read_pictures(sources, options.sides, options.channels, options.fit):
        if not isinstance(found, UserError):
            first = first or (name, found.shape)
            found = _unlike(found.shape, *first) or found
        if isinstance(found, UserError):
            bad.setdefault(str(found), []).append(name)
            continue
        if options.channels is None and found.shape[2] == 3 and False not in kinds:
            kinds.add(is_grey(found))
        yield found
    if bad:
        raise UserError(_listed(bad))


def _unlike(shape: tuple[int, ...], first: str, first_shape: tuple[int, ...]) -> UserError | None:
    """Say how a picture differs from the first one in size or in kind."""
    if shape[2] != first_shape[2]:
        return UserError(
            f"is {KINDS[shape[2]]}, {first} is {KINDS[first_shape[2]]}; "
            "set prepare.channels to 1 or 3"
        )
    if shape != first_shape:
        return UserError(
            f"is {shape[1]}x{shape[0]} pixels, {first} {first_shape[1]}x{first_shape[0]}; "
            "set prepare.image_size to resize all"
        )
    return None


def _listed(bad: dict[str, list[str]]) -> str:
    """Say which pictures cannot be used, by the reason: MOST of them, and how many more."""
    listed, room = [], MOST
    for reason, names in bad.items():
        if named := names[:room]:
            listed.append(f"{', '.join(named)}: {reason}")
            room -= len(named)
    more = sum(map(len, bad.values())) - (MOST - room)
    return "; ".join(listed) + (f"; and {more:,} more pictures" if more else "")
