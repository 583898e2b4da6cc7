"""params.yaml and recipes: broken by hand, and by a generator that knows the whole schema."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cnn.base import params
from cnn.base.params import load
from stages.evaluate import EvaluateParams
from stages.fetch import FetchParams
from stages.prepare import PrepareParams
from stages.train import TrainParams
from tests.faults.common import Ended, Fault, Given, called, refused
from tools import recipe

SECTIONS = {
    "fetch": FetchParams,
    "prepare": PrepareParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
}
NINE = [
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
]
BOMB = ["a: &a [1,1,1,1,1,1,1,1,1]\n", *NINE]
# Whole files, read as params.yaml and as a recipe.
TEXTS = {
    "deep": "[" * 5000,
    "an alias bomb": "".join([*BOMB, "train: {filters: *i}"]),
    "an alias bomb in a value": "train:\n" + "".join(f"  {line}" for line in BOMB),
    "a control character": "train: {schedule: \x07}",
    "UTF-16": "train: {seed: 1}".encode("utf-16"),
    "Latin-1": "train: {schedule: café}".encode("latin-1"),
    "bytes of no text": b"\xff\xfe\x00\x01",
    "10 MB": "train:\n" + "".join(f"  key_{number}: {number}\n" for number in range(500_000)),
    "empty": "",
    "a word": "train",
    "a list": "- train",
    "JSON of a list": '["train", 1]',
}
CHANGES = {
    "a byte order mark": lambda text: "\ufeff" + text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "no end of the last line": lambda text: text.rstrip("\n"),
}


def tries(given_: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    yield from _texts(given_)
    yield from _of_the_schema(given_, 2000 if full else 60, int(rng.integers(2**32)))


def _train(path: Path) -> Ended:
    return called(lambda _: print(load(path, "train", TrainParams)), [])


def _texts(given_: Given) -> Iterator[Fault]:
    path = given_.folder / "broken.yaml"
    for what, text in TEXTS.items():
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Fault(what, refused(_train(path), path))
        ended = called(lambda _: print(recipe.load("broken", given_.folder)), [])
        yield Fault(f"recipe: {what}", refused(ended, path))
    for what, change in CHANGES.items():  # these are read, or refused, and never half
        path.write_bytes(change(given_.params_yaml.read_text()).encode())
        ended = _train(path)
        yield Fault(what, "" if ended == (0, "") else refused(ended, path))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.integers(-2, 70)
    | st.floats()
    | st.floats(-0.1, 1.1)
    | st.text(max_size=20)
    | st.sampled_from(
        ["mnist", "cosine", "constant", "exact", "keras", "float32", "mixed_bfloat16"]
    )
)
ANY = st.recursive(
    SCALARS,
    lambda each: (
        st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=5), each, max_size=3)
    ),
    max_leaves=8,
)


def _of_the_schema(given_: Given, examples: int, chance: int) -> Iterator[Fault]:
    """Any value for any key of any section: read as it is, or refused by its name."""
    found: list[Fault] = []
    fields = [(name, key) for name, section in SECTIONS.items() for key in section.model_fields]

    @seed(chance)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(fields), ANY | st.lists(st.integers(0, 1100), max_size=8))
    def attempt(field: tuple[str, str], value: Any) -> None:
        name, key = field
        document = given_.params | {name: given_.params[name] | {key: value}}
        with patch.object(params, "read_yaml", lambda _: document):
            ended = called(lambda _: print(load("params.yaml", name, SECTIONS[name])), [])
            same = not ended.code and load("params.yaml", name, SECTIONS[name])
        if same and same.model_dump(mode="json")[key] != value:
            problem = "is read as another value"
        else:
            problem = "" if same else refused(ended, "params.yaml", f"{name}.{key}")
        found.append(Fault(f"{name}.{key}: {value!r}"[:200], problem))

    attempt()
    yield from found
