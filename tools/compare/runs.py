"""A run as a revision has it on record: its seed, what else it was given, and what came of it."""

import csv
import json
import math
from collections import Counter
from typing import NamedTuple

from cnn.base.errors import UserError, brief
from tools.compare.revisions import read_texts

PREDICTIONS = "reports/predictions.csv"
HEADER = ["index", "image", "actual", "predicted", "probability"]
METRICS = "reports/evaluate/metrics.json"
LOCK = "dvc.lock"
SEED = "train.seed"


class Predictions(NamedTuple):
    """What one model read, by the image's fingerprint and which of equal images it is."""

    actual: dict[tuple[str, int], str]
    predicted: dict[tuple[str, int], str]


def parse(text: str, name: str) -> Predictions:
    """Return what the CSV `text` says of each image.

    Raises
    ------
    UserError
        Naming `name` and the first line that is damaged.
    """
    rows = csv.reader(text.splitlines())
    if next(rows, None) != HEADER:
        raise UserError(f"{name}: does not start with '{','.join(HEADER)}'; `dvc repro` repairs it")
    reading, seen = Predictions({}, {}), Counter()
    for number, row in enumerate(rows):
        try:
            index, image, actual, predicted, probability = row
            whole = int(index) == number and 0 <= float(probability) <= 1
        except ValueError:
            whole = False
        if not (whole and image and actual and predicted):
            raise UserError(
                f"{name}: line {number + 2} is damaged: {','.join(row)[:60]!r}; "
                "`dvc repro` repairs it"
            )
        seen[image] += 1
        reading.actual[image, seen[image]] = actual
        reading.predicted[image, seen[image]] = predicted
    if not reading.actual:
        raise UserError(f"{name}: has no row per image; `dvc repro` repairs it")
    return reading


def read_predictions(name: str) -> Predictions:
    """Return what the model of revision `name` read; a UserError where that is missing."""
    return parse(read_texts(name, PREDICTIONS)[0], f"{PREDICTIONS} of '{name}'")


class Run(NamedTuple):
    """One training and what came of it."""

    name: str
    seed: int | None
    settings: dict[str, object]  # {'section.key': value, 'path': MD5} but for the seed
    metrics: dict[str, float]
    tested: dict[tuple[str, int], str]  # as Predictions.actual


def settings_of(lock: dict) -> dict[str, object]:
    """Return what the stages of a dvc.lock were given and did not make: parameters and files."""
    stages = lock["stages"].values()
    made = {output["path"] for stage in stages for output in stage.get("outs", [])}
    files, parameters = {}, {}
    for stage in stages:
        files |= {dependency["path"]: dependency.get("md5") for dependency in stage.get("deps", [])}
        for path, sections in stage.get("params", {}).items():
            made.add(path)  # its parameters are compared one by one
            for section, values in sections.items():
                parameters |= {f"{section}.{key}": value for key, value in values.items()}
    return parameters | {path: md5 for path, md5 in files.items() if path not in made}


def read_run(name: str) -> Run:
    """Return the run that is on record in revision `name`.

    Raises
    ------
    UserError
        A file is missing there or damaged, or there is no accuracy.
    """
    from ruamel.yaml import YAML, YAMLError

    metrics, lock, predictions = read_texts(name, METRICS, LOCK, PREDICTIONS)
    try:
        numbers = {
            key: value
            for key, value in json.loads(metrics).items()
            if type(value) in (int, float) and math.isfinite(value)
        }
    except (ValueError, AttributeError):
        numbers = {}
    if "accuracy" not in numbers:
        raise UserError(f"{METRICS} of '{name}': has no accuracy; `dvc repro` repairs it")
    try:
        settings = settings_of(YAML(typ="safe").load(lock))
    except (YAMLError, AttributeError, KeyError, TypeError):
        raise UserError(f"{LOCK} of '{name}': is damaged; `dvc repro` repairs it") from None
    tested = parse(predictions, f"{PREDICTIONS} of '{name}'").actual
    return Run(name, settings.pop(SEED, None), settings, numbers, tested)


def distinct(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs by seed, each once, and a line on each that is there under two names.

    The same seed of the same recipe gives the same run: to count it twice would feign certainty.
    """
    found, lines = [], []
    for run in sorted(runs, key=lambda run: (run.seed is None, run.seed, run.name)):
        twin = next((other for other in found if other[1:] == run[1:]), None)
        if twin:
            lines.append(f"'{run.name}' is the same run as '{twin.name}' and counts once")
        else:
            found.append(run)
    return found, lines


def in_both(a: list[Run], b: list[Run]) -> list[str]:
    """Return a line on each run that is in both sets, which a test takes for independent."""
    pairs = [(run, other) for run in a for other in b if run[1:] == other[1:]]
    return [f"'{run.name}' of A and '{other.name}' of B are one run" for run, other in pairs]


def unlike(runs: list[Run]) -> list[str]:
    """Return a line, or none, on what differs among the runs of a set besides the seed."""
    first, *others = runs
    keys = set().union(*(run.settings for run in runs))
    lines = []
    for key in sorted(keys, key=lambda key: ("/" in key, key)):  # parameters before files
        value = first.settings.get(key)
        other = next((run for run in others if run.settings.get(key) != value), None)
        if other and "/" in key:
            lines.append(f"{key} is not the same in '{first.name}' and '{other.name}'")
        elif other:
            lines.append(
                f"{key} is {brief(value)} in '{first.name}' and "
                f"{brief(other.settings.get(key))} in '{other.name}'"
            )
    more = f"; and {len(lines) - 1} more" if len(lines) > 1 else ""
    return [f"not one recipe with several seeds: {lines[0]}{more}"] if lines else []


def check_tested(runs: list[Run]) -> None:
    """Raise a UserError that names two runs unless all were tested on the same images."""
    first = runs[0]
    n = len(first.tested)
    for run in runs:
        if run.tested != first.tested:
            other = "others" if len(run.tested) == n else f"{len(run.tested):,}"
            raise UserError(
                f"{PREDICTIONS}: '{first.name}' was tested on {n:,} images, '{run.name}' on "
                f"{other}; compare runs with the same test images"
            )
