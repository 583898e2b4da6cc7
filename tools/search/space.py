"""What a search may try: ranges of parameters of section `train`, in a small YAML file.

train.learning_rate: {low: 0.0005, high: 0.02, log: true}
train.epochs: {low: 3, high: 8}
train.schedule: [constant, cosine]
"""

import json
from pathlib import Path

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cnn.base.errors import UserError
from cnn.base.params import CORRECT, checked, read_yaml
from cnn.training.params import TrainParams

DIGITS = 4  # significant ones of what is tried: a person reads them, and no more matter
FORM = (
    "one value, a list of choices, or {low: , high: } with 'log: true' if its magnitude is what "
    "varies"
)
Space = dict[str, BaseDistribution]  # by the parameter's name, without `train.`


def read(path: Path, given: dict[str, object]) -> Space:
    """Return the distributions in a file.

    Parameters
    ----------
    given : section `train` of params.yaml, which holds what the file does not name.

    Raises
    ------
    UserError
        The file is no such file, or an end of a range or a choice is not allowed.
    """
    document = read_yaml(path)
    if not isinstance(document, dict) or not document:
        raise UserError(f"{path}: names no parameters; write lines such as train.dropout: [0, 0.5]")
    space = {}
    for key, described in document.items():
        section, _, name = str(key).partition(".")
        if section != "train":
            raise UserError(
                f"{path}: {key}: searched are parameters of train, as train.learning_rate; others "
                "change the data or the pictures ('dvc exp run -S' compares those)"
            )
        field = TrainParams.model_fields.get(name)
        whole = field is not None and field.annotation is int
        ends, space[name] = _distribution(f"{path}: {key}", described, whole)
        for end in ends:
            try:
                checked(path, "train", given | {name: end}, TrainParams)
            except UserError as error:
                raise UserError(f"{str(error).removesuffix(CORRECT)}correct it") from None
    return space


def _distribution(
    where: str, described: object, whole: bool
) -> tuple[list[object], BaseDistribution]:
    """Return the values that must be allowed, and the distribution."""
    if not isinstance(described, dict):
        choices = described if isinstance(described, list) and described else [described]
        # Optuna takes no lists, such as train.filters has, for choices.
        return choices, CategoricalDistribution([json.dumps(each) for each in choices])
    if not {"low", "high"} <= set(described):
        raise UserError(f"{where}: is {described!r}; write {FORM}")
    low, high, log = described["low"], described["high"], described.get("log", False)
    if unknown := set(described) - {"low", "high", "log"}:
        raise UserError(f"{where}: {', '.join(map(str, unknown))} is unknown; write {FORM}")
    if not all(type(end) in (int, float) for end in (low, high)) or not low < high:
        raise UserError(f"{where}: low is {low!r} and high {high!r}; write two numbers, low first")
    if type(log) is not bool or (log and low <= 0):
        raise UserError(f"{where}: log is {log!r} and low {low!r}; log: true needs a low above 0")
    kind = IntDistribution if whole else FloatDistribution
    return [low, high], kind(low, high, log=log)


def values_of(space: Space, suggested: dict[str, object]) -> dict[str, object]:
    """Return the parameters' values for what Optuna suggests."""
    return {name: _value_of(space[name], suggested[name]) for name in space}


def _value_of(distribution: BaseDistribution, suggested: object) -> object:
    if isinstance(distribution, CategoricalDistribution):
        return json.loads(suggested)
    if isinstance(distribution, IntDistribution):
        return suggested
    rounded = float(f"{suggested:.{DIGITS}g}")
    return min(max(rounded, distribution.low), distribution.high)


def suggestion_of(space: Space, values: dict[str, object]) -> dict[str, object] | None:
    """Return values as Optuna would suggest them; None where one lies outside of its range."""
    found = {}
    for name, distribution in space.items():
        categorical = isinstance(distribution, CategoricalDistribution)
        found[name] = json.dumps(values[name]) if categorical else values[name]
        inside = (
            found[name] in distribution.choices
            if categorical
            else distribution.low <= found[name] <= distribution.high
        )
        if not inside:
            return None
    return found


def fewest_epochs(space: Space, given: dict[str, object]) -> int:
    """Return how many epochs a trial has at least."""
    distribution = space.get("epochs")
    if distribution is None:
        return given["epochs"]
    if isinstance(distribution, CategoricalDistribution):
        return min(map(json.loads, distribution.choices))
    return distribution.low
