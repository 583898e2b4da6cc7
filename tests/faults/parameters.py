"""params.yaml and recipes: broken by hand, and by a generator that knows the whole schema."""

import math
import time
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cnn import params as library
from cnn.params import load, read_section
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
# What stands for section `train`, or for the whole file where it starts with "#".
TEXTS = {
    "empty": "#",
    "a word": "#\ntrain",
    "a list": "#\n- train",
    "no section": "#\nother: {}",
    "no keys": "#\ntrain:",
    "an unknown section": "trian:\n  seed: 1\n",
    "a key outside of a section": "train.seed: 1\n",
    "a section twice": "train:\n  seed: 1\n",
    "a key twice": "#\ntrain: {seed: 1, seed: 2}",
    "a tab": "#\ntrain:\n\tseed: 1",
    "not closed": "#\ntrain: [1, 2",
    "a colon too many": "#\ntrain: a: b",
    "an anchor of nobody": "#\ntrain: *other",
    "a Python object": "#\ntrain: !!python/object/apply:os.system [true]",
    "two documents": "#\ntrain: {seed: 1}\n---\ntrain: {seed: 2}",
    "a merge conflict": "#\n<<<<<<< HEAD\ntrain: {seed: 1}\n=======\ntrain: {seed: 2}\n>>>>>>> x",
    "deep": "#\n" + "[" * 5000,
    "a date of no calendar": "#\ntrain: {seed: 2026-13-45}",
    "an alias bomb": "#\na: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "train: {filters: *i}",
    "itself": "#\ntrain: &t {filters: *t}",
    "NUL": "#\ntrain: {seed: \0}",
    "a control character": "#\ntrain: {schedule: \x07}",
    "UTF-16": "#\ntrain: {seed: 1}".encode("utf-16"),
    "Latin-1": "#\ntrain: {schedule: café}".encode("latin-1"),
    "bytes of no text": b"#\n\xff\xfe\x00\x01",
    "JSON of a list": '#\n["train", 1]',
    "10 MB": "#\ntrain:\n" + "".join(f"  key_{number}: {number}\n" for number in range(500_000)),
    "an alias bomb in a value": "#\ntrain:\n  a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"  {b}: &{b} [{','.join([f'*{a}'] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
}
VALUES: dict[str, list[Any]] = {
    "seed": [-1, 2**32, 1.5, "42", True, None, [], {}],
    "epochs": [0, -5, 1001, 5.0, "five", None],
    "batch_size": [0, 8193, False],
    "learning_rate": [0, -1, 1.001, math.nan, math.inf, "1e-3x", [0.1]],
    "schedule": ["cosin", "", 1, None],
    "filters": [[], [1] * 7, [0, 64], [32, 2000], 32, "32, 64", [[32], 64], [1] * 10_000,
                [0] * 10_000, [32.0], [None], {"a": 32}],
    "dense_units": [[1] * 4, [0], [5000], 128, "128", [True], [[]], None],
    "kernel_size": [0, 6, [3, 3]],
    "dropout": [1, 1.0, -0.1],
    "shards": [3, 0, 128, 4.0],
    "engine": ["Exact", "avx2", None, ["exact"]],
    "precision": ["float16", 32],
    "resume": [1, "yes", None],
    "warmup_share": [1, -0.1],
}  # fmt: skip


def tries(given_: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    yield from _by_hand(given_)
    yield from _recipes(given_)
    yield from _of_the_schema(given_, 2000 if full else 60, int(rng.integers(2**32)))


def _load(path: Any, name: str) -> Ended:
    return called(lambda _: print(load(path, name, SECTIONS[name])), [])


def _by_hand(given_: Given) -> Iterator[Fault]:
    path = given_.folder / "params.yaml"
    whole = path.read_bytes().decode()
    slowest = 0.0
    for what, text in TEXTS.items():
        content = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(content if content.startswith((b"#", b"\xff")) else
                         whole.encode() + content)  # fmt: skip
        began = time.monotonic()
        yield Fault(what, refused(_load(path, "train"), path))
        slowest = max(slowest, time.monotonic() - began)
    for key, values in VALUES.items():
        for value in values:
            document = given_.params | {"train": given_.params["train"] | {key: value}}
            path.write_text(yaml.safe_dump(document))
            began = time.monotonic()
            ended = _load(path, "train")
            took = time.monotonic() - began
            slowest = max(slowest, took)
            yield Fault(f"{key}: {str(value)[:60]}", refused(ended, path, f"train.{key}"))
    for key in given_.params["train"]:
        rest = {k: v for k, v in given_.params["train"].items() if k != key}
        path.write_text(yaml.safe_dump({"train": rest}))
        yield Fault(f"without {key}", refused(_load(path, "train"), path, f"train.{key}"))
    for what, change in {
        "BOM": lambda text: "\ufeff" + text,
        "CRLF": lambda text: text.replace("\n", "\r\n"),
        "no end of the last line": lambda text: text.rstrip("\n"),
    }.items():  # these are read, or refused, and never half
        path.write_bytes(change(whole).encode())
        ended = _load(path, "train")
        yield Fault(what, "" if ended == (0, "") else refused(ended, path))
    print(f"the slowest refusal took {slowest:.1f} s")
    path.write_text(whole)


def _recipes(given_: Given) -> Iterator[Fault]:
    for what, text in TEXTS.items():
        if what in ("empty", "a word", "a list", "JSON of a list") or (
            "twice" not in what and what not in ("no section", "an unknown section", "itself",
            "a key outside of a section")
        ):  # fmt: skip
            path = given_.folder / "broken.yaml"
            content = text if isinstance(text, bytes) else text.encode()
            path.write_bytes(content)
            ended = called(lambda _: print(recipe.load("broken", given_.folder)), [])
            yield Fault(f"recipe: {what}", refused(ended, path))
    ended = called(lambda _: print(recipe.load("none", given_.folder)), [])
    yield Fault("recipe: none of that name", refused(ended, given_.folder / "none.yaml"))


def _admits(annotation: Any, metadata: list[Any], value: Any) -> bool:
    """Tell whether a field admits a value: what pydantic should say, in a few words of our own."""
    if get_origin(annotation) is Literal:
        return type(value) is str and value in get_args(annotation)
    if get_origin(annotation) is tuple:
        item = get_args(get_args(annotation)[0])[1]
        least, most = _bound(metadata, "min_length", 0), _bound(metadata, "max_length", 0)
        return (
            type(value) in (list, tuple)
            and least <= len(value) <= most
            and all(_admits(int, item.metadata, each) for each in value)
        )
    kinds = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[annotation]
    if type(value) not in kinds or (type(value) is float and not math.isfinite(value)):
        return False
    checks = {"ge": lambda a, b: a >= b, "gt": lambda a, b: a > b,
              "le": lambda a, b: a <= b, "lt": lambda a, b: a < b}  # fmt: skip
    return all(
        check(value, getattr(each, word))
        for each in metadata
        for word, check in checks.items()
        if getattr(each, word, None) is not None
    )


def _bound(metadata: list[Any], name: str, default: int) -> int:
    return next((getattr(each, name) for each in metadata if hasattr(each, name)), default)


# Fields whose types say less than what is admitted.
APART = ("shards", "channels", "image_size", "raw")
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
    """Any value for any key of any section: admitted when its declaration says so, else refused."""
    found: list[Fault] = []
    fields = [
        (name, key)
        for name, section in SECTIONS.items()
        for key in section.model_fields
        if key not in APART
    ]

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
        library_read = library.read_yaml
        library.read_yaml = lambda _: document
        try:
            ended = _load("params.yaml", name)
        finally:
            library.read_yaml = library_read
        declared = SECTIONS[name].model_fields[key]
        admitted = _admits(declared.annotation, declared.metadata, value)
        if admitted:
            problem = "" if ended.code == 0 else f"is refused: {ended.errors}"
        else:
            problem = refused(ended, "params.yaml", f"{name}.{key}")
        found.append(Fault(f"{name}.{key}: {value!r}"[:200], problem))

    attempt()
    yield from found
    text = given_.folder / "params.yaml"
    for name in SECTIONS:  # a text of these values is read as it was written
        assert read_section(text, name) == given_.params[name]
