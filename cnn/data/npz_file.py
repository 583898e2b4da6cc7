"""Read an npz with the arrays' names of Keras (x_train, y_train, ...), MedMNIST's, or the like."""

import re
import zipfile
from pathlib import Path

import numpy as np

from cnn.base.errors import UserError
from cnn.base.files import REPAIR
from cnn.base.npz import read_arrays
from cnn.data.arrays import check_labels, check_lengths, published_as, to_images, to_labels
from cnn.data.raw import SPLITS, Options, Raw, Split, split_of

# Words in the names of arrays; "x_train", "train_images" and "TRAIN-IMGS" are the same.
KINDS = {
    "images": {"x", "image", "images", "imgs", "img", "data", "pixels", "features"},
    "labels": {"y", "label", "labels", "target", "targets"},
    "groups": {"group", "groups"},
}
CLASSES = ("classes", "class_names", "label_names", "target_names")
REMEDY = f"make it again or, if fetch wrote it, {REPAIR}"


def recognizes(path: Path) -> bool:
    """Tell whether a file is a zip of arrays, or calls itself one."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        return path.suffix.lower() == ".npz" and path.is_file()
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def read(path: Path, options: Options) -> Raw:
    """Return the arrays of an npz in the form of `Raw`; the published data sets get their names.

    Raises
    ------
    UserError
        Names the file and the array, what is wrong and what to do.
    """
    found = _names(path)
    roles = _roles(found)
    if "train" not in {split for split, _ in roles}:
        raise UserError(
            f"has no arrays x_train and y_train; found {found}; an npz has those, and may have "
            "x_validation, y_validation, x_test, y_test and classes"
        )
    for split in SPLITS:
        if ((split, "images") in roles) != ((split, "labels") in roles):
            there = "images" if (split, "images") in roles else "labels"
            missing = "labels" if there == "images" else "images"
            raise UserError(f"has '{roles[split, there]}' but no {missing} for it; found {found}")
    arrays = dict(zip(roles, _arrays(path, tuple(roles.values()), options), strict=True))
    splits = [split for split in SPLITS if (split, "images") in roles]
    published = published_as(
        *({s: arrays[s, kind] for s in splits} for kind in ("images", "labels"))
    )
    names = [name for name in CLASSES if name in found]
    classes: list[str] = []
    if published:
        classes = list(published.classes)
    elif names:
        classes = [str(name) for name in _arrays(path, (names[0],), options)[0].ravel()]
    notes: list[str] = []
    given = {}
    for split in splits:
        x, y = roles[split, "images"], roles[split, "labels"]
        images = to_images(x, arrays[split, "images"], options, notes)
        labels = to_labels(y, arrays[split, "labels"])
        if classes or split == "train":
            check_labels(y, labels, classes)
        given[split] = Split(images, labels, _groups(roles, arrays, split, len(labels)))
        check_lengths(x, given[split], y)
        if images.shape[1:] != given["train"].images.shape[1:]:
            raise UserError(
                f"{x} has images of {images.shape[1:]}, {roles['train', 'images']} of "
                f"{given['train'].images.shape[1:]}"
            )
        if not classes:
            classes_of_train = [str(label) for label in range(int(given["train"].labels.max()) + 1)]
            if labels.min() < 0 or labels.max() >= len(classes_of_train):
                raise UserError(
                    f"{y} holds the label {labels.max() if labels.min() >= 0 else labels.min()}, "
                    f"which {roles['train', 'labels']} does not"
                )
    classes = classes or classes_of_train
    return Raw(given, classes, notes, "an npz", published)


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return ["x_train", "y_train"]  # read_arrays says what is wrong


def _roles(names: list[str]) -> dict[tuple[str, str], str]:
    """Return {(split, kind): name} of the arrays whose names say what they are."""
    roles: dict[tuple[str, str], str] = {}
    for name in names:
        words = set(re.split(r"[\W_]+", name.lower()))
        kinds = [kind for kind, known in KINDS.items() if words & known]
        # "images" and "labels" alone are training, as nothing else was given.
        if len(kinds) != 1 or name in CLASSES:
            continue
        role = split_of(name) or "train", kinds[0]
        if role in roles:
            raise UserError(f"'{roles[role]}' and '{name}' are both {role[1]} of {role[0]}")
        roles[role] = name
    return roles


def _arrays(path: Path, names: tuple[str, ...], options: Options) -> list[np.ndarray]:
    return read_arrays(path, names, options.scratch, REMEDY)


def _groups(
    roles: dict[tuple[str, str], str], arrays: dict[tuple[str, str], np.ndarray], split: str, n: int
) -> np.ndarray | None:
    if (split, "groups") not in roles:
        return None
    groups = arrays[split, "groups"]
    if groups.shape not in ((n,), (n, 1)):
        raise UserError(f"{roles[split, 'groups']} is {groups.shape}; expected ({n},)")
    return groups.reshape(-1).astype(str)
