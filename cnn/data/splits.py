"""Which images go into which split, train, validation or test; and how they are normalized."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.npz import ChunkedArray, chunk_slices, release
from cnn.data.raw import MOST, SPLITS, Raw, Split, some
from cnn.data.sets import digests

FEW = 20  # test images, below which a class's figures say little: an interval of +-0.2
UNBALANCED = 10  # times as many images as another class


def normalize(images: NDArray) -> NDArray[np.float32]:
    """Return uint8 in [0, 255], or floats in [0, 1], as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


class Subset(NamedTuple):
    """Some of the images that were given; never held in memory as a whole.

    given : m images with their labels.
    rows : int64 (n,), which of the m it has.
    """

    given: Split
    rows: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Its labels, int64 (n,)."""
        return self.given.labels[self.rows]

    def chunks(self) -> Iterator[NDArray]:
        """Yield its images as they were given, some at a time."""
        images = self.given.images
        size = 4 * math.prod(images.shape[1:])  # bytes of an image when it is normalized
        for each in chunk_slices(len(self.rows), size):
            yield images[self.rows[each]]
            release(images)

    def normalized(self) -> ChunkedArray:
        """Return its images as float32 (n, h, w, c) in [0, 1]."""
        shape = len(self.rows), *self.given.images.shape[1:]
        return ChunkedArray(shape, np.dtype(np.float32), map(normalize, self.chunks()))

    def counts(self, classes: int) -> NDArray[np.int64]:
        """Return the number of its images of each class, int64 (classes,)."""
        return np.bincount(self.labels, minlength=classes)

    def groups(self) -> NDArray[np.str_]:
        """Return what must stay together with each of its images, str (n,); "" for nothing."""
        groups = self.given.groups
        return np.zeros(len(self.rows), "U1") if groups is None else groups[self.rows]


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
    labels, drawn = subset.given.labels, []
    for label in np.unique(subset.labels):
        members = order[labels[order] == label]
        drawn.append(members[: max(1, round(share * len(members)))])
    return _apart(subset, np.concatenate(drawn))


def drawn_by_group(subset: Subset, share: float, seed: int, purpose: str) -> tuple[Subset, Subset]:
    """Return what remains, and about a share of each class that is drawn, in whole groups.

    Groups come in the order of a hash of name, seed and purpose, an image without one as a group of
    its own. One is drawn if that brings the numbers of the classes nearer to their shares. What
    then has no image of a class gets the first group that the other side can spare.
    """
    names = subset.groups().astype(object)
    alone = names == ""
    if alone.any():
        single = digests((chunk for chunk in subset.chunks()), "")  # equal images stay together
        names[alone] = [f"\0{digest:x}" for digest in single[alone]]
    groups, of = np.unique(names.astype(str), return_inverse=True)
    k = int(subset.labels.max()) + 1
    counts = np.zeros((len(groups), k), np.int64)
    np.add.at(counts, (of, subset.labels), 1)
    keys = [hashlib.blake2b(f"{purpose} {seed} {group}".encode()).digest() for group in groups]
    order = sorted(range(len(groups)), key=keys.__getitem__)
    target = share * counts.sum(axis=0)
    taken, have = np.zeros(len(groups), bool), np.zeros(k)
    for group in order:
        if abs(target - have - counts[group]).sum() < abs(target - have).sum():
            taken[group] = True
            have += counts[group]
    for side in (True, False):  # drawn, remaining
        for label in np.flatnonzero(counts.sum(axis=0)):
            if counts[taken == side, label].any():
                continue
            for group in order:
                rest = counts[(taken != side) & (np.arange(len(groups)) != group)].sum(axis=0)
                if counts[group, label] and (rest[counts[group] > 0] > 0).all():
                    taken[group] = side
                    break
    return _apart(subset, subset.rows[taken[of]])


def _apart(subset: Subset, chosen: NDArray[np.int64]) -> tuple[Subset, Subset]:
    """Return the subset without the chosen rows, and with these alone."""
    chosen = np.sort(chosen)
    return subset._replace(rows=np.setdiff1d(subset.rows, chosen)), subset._replace(rows=chosen)


def split(
    raw: Raw, validation_share: float, test_share: float, seed: int, together: bool = False
) -> dict[str, Subset]:
    """Return a subset for each of SPLITS: as it was given, or set aside from the training images.

    A published data set was shuffled by those who published it: its last images are a fair sample,
    and those that Keras sets aside. One's own images may lie by class, so they are drawn from each;
    `together` keeps those of a group in one subset.

    Raises
    ------
    UserError
        A subset would lack a class, or there are no groups to keep together, or the given images
        separate some.
    """
    subsets = {name: Subset(each, np.arange(len(each.labels))) for name, each in raw.splits.items()}
    draw = drawn_by_group if together else drawn_by_class
    for name, share in (("test", test_share), ("validation", validation_share)):
        if name in subsets:
            continue
        train = subsets["train"]
        if raw.published:
            both = (train._replace(rows=rows) for rows in last(len(train.rows), share))
        else:
            both = draw(train, share, seed, name)
        subsets["train"], subsets[name] = both
        for each in ("train", name):
            absent = np.flatnonzero(subsets[each].counts(len(raw.classes)) == 0)
            # A class may be too rare for the validation images, but there have to be some.
            if len(absent) and (each != "validation" or not len(subsets[each].rows)):
                raise UserError(
                    _too_few(raw, each, int(absent[0]), validation_share, test_share, together)
                )
    if together:
        _check_groups(raw, subsets)
    return {name: subsets[name] for name in SPLITS}


def shared_groups(subsets: dict[str, Subset]) -> tuple[list[str], int]:
    """Return the groups that have images in several subsets, and how many groups there are."""
    members = [set(subset.groups()) - {""} for subset in subsets.values()]
    times = Counter(group for each in members for group in each)
    return sorted(group for group, n in times.items() if n > 1), len(times)


def _check_groups(raw: Raw, subsets: dict[str, Subset]) -> None:
    """Refuse prepare.groups where it can do nothing."""
    shared, n = shared_groups(subsets)
    if not n:
        raise UserError(
            "prepare.groups is true, and the images come without groups; docs/own-data.md#groups "
            "says how they are given"
        )
    if shared:
        raise UserError(
            f"prepare.groups is true, and {', '.join(raw.splits)} were given with {len(shared):,} "
            f"of {n:,} groups in more than one: {some(shared)}; give them apart, or train alone"
        )


def _too_few(
    raw: Raw, name: str, label: int, validation_share: float, test_share: float, together: bool
) -> str:
    if together:
        train = raw.splits["train"]
        subset = Subset(train, np.flatnonzero(train.labels == label))
        n = len(set(subset.groups()) - {""}) + int((subset.groups() == "").sum())
        needed = 3 - (len(raw.splits) - 1)
        return (
            f"class {raw.classes[label]} has {n} group{'s' * (n != 1)}; no {name} image is left; "
            f"with prepare.groups each class needs {needed} or more that can part: add some, or "
            "set prepare.groups: false"
        )
    return (
        f"prepare.validation_share {validation_share:g} and prepare.test_share {test_share:g} "
        f"leave no {name} image of class {raw.classes[label]}; choose others, or add images of it"
    )


def conflicts(
    subsets: dict[str, Subset], hashes: dict[str, NDArray[np.uint64]], classes: list[str]
) -> str:
    """List images that were given more than once, with different labels, "" if none was.

    By the names of their files, or by split and index. `hashes` has a digest of each image, in the
    order of each subset's rows.
    """
    digest = np.concatenate([hashes[name] for name in subsets])
    labels = np.concatenate([subset.labels for subset in subsets.values()])
    values, counts = np.unique(digest, return_counts=True)
    places = np.flatnonzero(np.isin(digest, values[counts > 1]))
    same: dict[int, list[int]] = {}
    for place in places.tolist():
        same.setdefault(int(digest[place]), []).append(place)
    differ = [each for each in same.values() if len(set(labels[each].tolist())) > 1]
    starts = np.cumsum([0, *(len(subset.rows) for subset in subsets.values())])

    def called(place: int) -> str:
        which = int(np.searchsorted(starts, place, "right")) - 1
        name, subset = list(subsets.items())[which]
        row, names = subset.rows[place - starts[which]], subset.given.names
        label = classes[labels[place]]
        return f"{names[row]} ({label})" if names else f"image {row} of {name} ({label})"

    lines = []
    for each in differ[:MOST]:
        first = {labels[place]: place for place in reversed(each)}  # of each label
        lines.append(" = ".join(called(place) for place in sorted(first.values())))
    more = len(differ) - MOST
    return "; ".join(lines) + (f"; and {more:,} more" if more > 0 else "")


def remarks(subsets: dict[str, Subset], classes: list[str]) -> list[str]:
    """Return what a user should know before trusting a result: few, unequal, related images."""
    notes = []
    counts = subsets["test"].counts(len(classes))
    few = [f"{name} ({n})" for name, n in zip(classes, counts, strict=True) if n < FEW]
    if few:
        notes.append(
            f"{len(few)} of {len(classes)} classes have fewer than {FEW} test images, so their "
            f"figures say little: {some(few)}"
        )
    counts = subsets["train"].counts(len(classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] > UNBALANCED * counts[least]:
        notes.append(
            f"class {classes[most]} has {counts[most]:,} training images, {classes[least]} "
            f"{counts[least]:,}; train.class_weights: balanced gives each class the same weight"
        )
    shared, n = shared_groups(subsets)
    if shared:
        notes.append(
            f"{len(shared):,} of {n:,} groups have images on several sides of the splits, so the "
            f"figures flatter: {some(shared)}; prepare.groups: true keeps each on one side"
        )
    return notes
