"""Read a folder of pictures: a folder per class, or train/, val/ and test/ above such folders.

    mine/cat/1.png        mine/train/cat/1.png      mine/cat/tom/1.png
    mine/dog/2.png        mine/test/dog/2.png       mine/dog/rex/2.png

Sub-folders of a class are groups (the third form): pictures of one writer, patient or object.
"""

import os
from pathlib import Path

import numpy as np

from cnn.base.errors import UserError
from cnn.data.gather import gather
from cnn.data.pictures import SUFFIXES
from cnn.data.raw import SPLITS, WORDS, Options, Raw, Split, some
from cnn.data.sets import problem_of_classes

HERE = "train/, val/ and test/"


def recognizes(path: Path) -> bool:
    """Tell whether there are folders, or pictures, which then lack them."""
    return path.is_dir()


def read(path: Path, options: Options) -> Raw:
    """Return the pictures below a folder, in the order of class and file name.

    Raises
    ------
    UserError
        Names the folder or the files, what is wrong and what to do.
    """
    left: list[str] = []  # what is in the folder and is not read
    roots = _roots(path, left)
    classes = subfolders(roots["train"])
    if problem := problem_of_classes(classes):
        raise UserError(f"{roots['train']}: {problem}; a folder per class is expected{_hint(path)}")
    notes: list[str] = []
    for split in SPLITS[1:]:
        _check_classes(split, roots, classes, notes)
    files: dict[str, list[str]] = {}
    labels, groups = {}, {}
    for split, root in roots.items():
        by_class = [_pictures(root / name, split, left) for name in classes]
        labels[split] = np.repeat(np.arange(len(classes)), [len(each) for each in by_class])
        # What lies between a class and a picture; "" for a picture that lies in the class itself.
        inside = [name.rpartition("/")[0].split("/")[0] for each in by_class for name in each]
        groups[split] = np.array(inside, str) if any(inside) else None
        files[split] = [
            f"{root / name}/{file}"
            for name, each in zip(classes, by_class, strict=True)
            for file in each
        ]
    for root in {path, *roots.values()}:
        left += [str(root / entry.name) for entry in os.scandir(root) if not entry.is_dir()]
    if left:
        notes.append(f"{len(left):,} left out, no pictures by name: {some(sorted(left))}")
    sources = {split: ((name, Path(name)) for name in each) for split, each in files.items()}
    counts = {split: len(each) for split, each in files.items()}
    images = gather(str(path), sources, counts, options, notes)
    splits = {
        split: Split(images[split], labels[split], groups[split], files[split]) for split in roots
    }
    return Raw(splits, classes, notes, "a folder of pictures")


def subfolders(path: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without those of the system."""
    return _visible([Path(entry.path) for entry in _scan(path) if entry.is_dir()])


def _scan(path: Path) -> list[os.DirEntry]:
    try:
        return list(os.scandir(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def is_foreign(name: str) -> bool:
    """Tell whether a system put it there: .DS_Store, .git, what macOS adds to a zip."""
    return name.startswith(".") or name == "__MACOSX"


def _visible(folders: list[Path]) -> list[str]:
    """Return the names of folders but those of the system, sorted; refuse links."""
    found = sorted(folder.name for folder in folders if not is_foreign(folder.name))
    linked = [folder for folder in folders if folder.is_symlink() and folder.name in found]
    if linked:
        raise UserError(
            f"{some(sorted(linked))}: a link to a folder, which DVC leaves out; put the folder "
            "itself there ('cp -rL' copies what a link leads to)"
        )
    return found


def _roots(path: Path, left: list[str]) -> dict[str, Path]:
    """Return the folder of each split that was given; a folder per class is training alone."""
    names = subfolders(path)
    left += [str(path / name) for name in set(os.listdir(path)) - set(names) if is_foreign(name)]
    known = {name: WORDS[name.lower()] for name in names if name.lower() in WORDS}
    if known and len(known) < len(names):
        other = sorted(set(names) - set(known))[0]
        raise UserError(f"'{other}' stands next to {min(known)}/; only {HERE} may")
    if not known:
        return {"train": path}
    roots = {split: path / name for split in SPLITS for name in names if known[name] == split}
    if len(roots) < len(names):
        raise UserError(f"has {', '.join(f'{name}/' for name in names)}; one folder per split")
    if "train" not in roots:
        raise UserError(f"has {names[0]}/ but no train/")
    return roots


def _check_classes(
    split: str, roots: dict[str, Path], classes: list[str], notes: list[str]
) -> None:
    """Leave out a split whose pictures lie in no folder of a class; refuse classes of its own."""
    if split not in roots:
        return
    found = subfolders(roots[split])
    if not found:
        n = sum(entry.is_file() for entry in os.scandir(roots[split]))
        notes.append(
            f"{roots[split]}: {n:,} files in no folder of a class, so unlabelled; left out"
        )
        del roots[split]
    elif unknown := sorted(set(found) - set(classes)):
        raise UserError(f"{roots[split] / unknown[0]}: this class is not in training")


def _hint(path: Path) -> str:
    """Say what may be meant, where a folder has fewer than two folders."""
    names = subfolders(path)
    if len(names) == 1 and len(subfolders(path / names[0])) > 1:
        return f"; if they lie one level deeper, name that: prepare.raw: {path / names[0]}"
    if names:
        return ""
    found = sorted(name for name in os.listdir(path) if not is_foreign(name))
    if any(Path(name).suffix.lower() in SUFFIXES for name in found):
        return f", or a table of file names and labels; found {some(found)}"
    return f"; found {some(found)}; other formats: docs/own-data.md#anything-else" if found else ""


def _pictures(folder: Path, split: str, left: list[str]) -> list[str]:
    """Return the picture files of a class, below its folder, by name; `left` gets what else is."""
    if not folder.is_dir() and split == "validation":  # a class may be too rare for it
        return []
    files, other = [], []
    for place, folders, names in os.walk(folder):
        hidden = [name for name in folders if is_foreign(name)]
        folders[:] = _visible([Path(place, name) for name in folders])
        below = place[len(str(folder)) + 1 :]
        for name in names:
            is_picture = not is_foreign(name) and Path(name).suffix.lower() in SUFFIXES
            (files if is_picture else other).append(f"{below}/{name}".lstrip("/"))
        other += [f"{below}/{name}".lstrip("/") for name in hidden]
    if not files and split != "validation":
        what = f"; found {some(sorted(other))}" if other else ""
        raise UserError(f"{folder}: no pictures in this class; add some{what}")
    left += [f"{folder}/{name}" for name in other]
    return sorted(files, key=lambda name: name.split("/"))
