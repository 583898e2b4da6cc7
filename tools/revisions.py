"""What DVC and Git know by name, commits, branches, tags and experiments, and the files in them."""

import csv
from collections import Counter
from fnmatch import fnmatchcase
from typing import NamedTuple

from cnn.errors import UserError

PREDICTIONS = "reports/predictions.csv"
HEADER = ["index", "image", "actual", "predicted", "probability"]


def named() -> list[str]:
    """Return the names of all experiments, branches and tags, sorted, each once."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.experiments.utils import exp_refs

    try:
        with Repo() as repo:
            experiments = [reference.name for reference in exp_refs(repo.scm)]
            return sorted({*experiments, *repo.scm.list_branches(), *repo.scm.list_tags()})
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from None


def matching(pattern: str) -> list[str]:
    """Return the names that a shell's pattern such as 'fast-*' matches, or a plain name itself.

    Raises
    ------
    UserError
        The pattern matches no name.
    """
    if not set("*?[").intersection(pattern) or "^{" in pattern:  # HEAD^{/text} is Git's
        return [pattern]
    found = [name for name in named() if fnmatchcase(name, pattern)]
    if not found:
        raise UserError(
            f"'{pattern}': matches no experiment, branch or tag; "
            "'dvc exp list --all-commits' names the experiments"
        )
    return found


def read_texts(revision: str, *paths: str) -> list[str]:
    """Return the text of files in `revision`, from Git, the cache or the workspace."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    if not revision or ":" in revision:  # Git would take these for HEAD and for a folder
        raise UserError(f"'{revision}': unknown Git revision")
    texts, path = [], paths[0]
    try:
        with Repo() as repo:
            commit = None if revision == "workspace" else resolve_rev(repo.scm, revision)
            files = DVCFileSystem(repo.root_dir, rev=commit)
            for path in paths:
                texts.append(files.read_text(path, encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: not in '{revision}'; `dvc repro` writes it, and a commit keeps it"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} of '{revision}': is not text; restore it") from None
    except (DvcException, OSError) as error:
        raise UserError(f"'{revision}': {' '.join(str(error).split())}") from None
    return texts


class Reading(NamedTuple):
    """What one model read, by the image's fingerprint and which of equal images it is."""

    actual: dict[tuple[str, int], str]
    predicted: dict[tuple[str, int], str]


def parse(text: str, name: str) -> Reading:
    """Return what the CSV `text` says of each image.

    Raises
    ------
    UserError
        Naming `name` and the first line that is damaged.
    """
    rows = csv.reader(text.splitlines())
    if next(rows, None) != HEADER:
        raise UserError(f"{name}: does not start with '{','.join(HEADER)}'; `dvc repro` mends it")
    reading, seen = Reading({}, {}), Counter()
    for number, row in enumerate(rows):
        try:
            index, image, actual, predicted, probability = row
            whole = int(index) == number and 0 <= float(probability) <= 1
        except ValueError:
            whole = False
        if not (whole and image and actual and predicted):
            raise UserError(
                f"{name}: line {number + 2} is damaged: {','.join(row)[:60]!r}; "
                "`dvc repro` mends it"
            )
        seen[image] += 1
        reading.actual[image, seen[image]] = actual
        reading.predicted[image, seen[image]] = predicted
    if not reading.actual:
        raise UserError(f"{name}: has no row per image; `dvc repro` mends it")
    return reading
