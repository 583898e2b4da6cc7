"""params.yaml is read as DVC reads it, and strictly: a refusal is one line with what is allowed."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml
from dvc.utils.serialize import parse_yaml

from cnn import params as library
from cnn.params import load, read_yaml
from stages.evaluate import EvaluateParams
from stages.fetch import FetchParams
from stages.prepare import PrepareParams
from stages.train import TrainParams

ROOT = Path(__file__).parent.parent
SECTIONS = {
    "fetch": FetchParams,
    "prepare": PrepareParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
}
CURE = "; correct it and run 'dvc repro', which also brings back what DVC removed"
# One parameter for each kind of bound: what is wrong for it, what its edges are, what is told.
KINDS = {
    "train.epochs": ([0, 1001, 5.0], [1, 1000], "a whole number at least 1 and at most 1000"),
    "train.seed": (
        [-1, 2**32, 2**80], [0, 2**32 - 1], "a whole number at least 0 and at most 4294967295"),
    "prepare.validation_share": (
        [0, 0.0, 1, 1.0, -0.1, 1.1], [0.001, 0.999], "a number above 0 and below 1"),
    "train.dropout": ([-0.1, 1, 1.0], [0, 0.0, 0.999], "a number at least 0 and below 1"),
    "train.learning_rate": (
        [0, -0.001, 1.001], [1e-05, 1, 1.0], "a number above 0 and at most 1"),
    "train.rotation": ([-1, 181], [0, 180], "a number at least 0 and at most 180"),
    "train.schedule": (
        ["cosin", "Cosine", "", 1], ["constant", "cosine"], "constant or cosine"),
    "train.engine": (["Exact", "keras ", "pytorch", 1], ["exact", "keras"], "exact or keras"),
    "train.precision": (
        ["bfloat16", "float16", 32],
        ["float32", "mixed_bfloat16"],
        "float32 or mixed_bfloat16",
    ),
    "train.filters": (
        [[1] * 7, [0, 64], [32, 1025], [32.0, 64], [True, 64], [[32], 64], [32.0], 32, "32, 64"],
        [[1], [1024] * 6, [32, 64]],
        "a list of 1 to 6, each a whole number at least 1 and at most 1024",
    ),
    "train.dense_units": (
        [[1] * 4, [0], [128, 4097], [128.0], [True], 128],
        [[], [1], [4096] * 3],
        "a list of 0 to 3, each a whole number at least 1 and at most 4096",
    ),
    "prepare.image_size": (
        [7, 257, 28.0],
        [None, 8, 256],
        "empty, or a whole number from 8 to 256",
    ),
    "prepare.channels": ([0, 2, 4, 1.0], [None, 1, 3], "empty, 1 or 3"),
    "train.resume": ([0, 1, "yes"], [True, False], "true or false"),
    "train.shards": ([0, 3, 128, 4.0], [1, 4, 64], "1, 2, 4, 8, 16, 32 or 64"),
}  # fmt: skip
WRONG_FOR_ALL = [True, False, math.nan, math.inf, -math.inf, "5", "many", [], {"a": 1}]


@pytest.fixture
def write(tmp_path):
    """Write a document, or a text as it is, as params.yaml."""

    def call(document) -> Path:
        path = tmp_path / "params.yaml"
        text = document if isinstance(document, str) else yaml.safe_dump(document)
        path.write_text(text, encoding="utf-8")
        return path

    return call


@pytest.mark.parametrize("name", SECTIONS)
def test_the_committed_file_loads_with_every_key(params, name):
    loaded = load(ROOT / "params.yaml", name, SECTIONS[name])

    assert loaded.model_dump(mode="json") == params[name]


def test_the_committed_file_has_the_sections_of_the_stages_and_no_other(params):
    assert list(params) == list(SECTIONS) == list(library.SECTIONS)


@pytest.mark.parametrize("parameter", KINDS)
def test_a_broken_value_is_refused_with_key_value_and_what_is_allowed(
    params, write, refusal, parameter
):
    name, key = parameter.split(".")
    wrong, edges, allowed = KINDS[parameter]
    for value in wrong + [
        each for each in [*WRONG_FOR_ALL, None] if repr(each) not in map(repr, edges)
    ]:
        path = write({name: params[name] | {key: value}})

        message = refusal(load, path, name, SECTIONS[name])

        told = re.escape(f"; allowed: {allowed}{CURE}")
        match = re.fullmatch(rf"{re.escape(f'{path}: {parameter}')}(\.\d)? is (.+?){told}", message)
        assert match, message
        assert match[2] == repr(value[int(match[1][1:])] if match[1] else value)


@pytest.mark.parametrize("parameter", KINDS)
def test_the_values_at_the_edge_are_allowed(params, write, parameter):
    name, key = parameter.split(".")
    for value in KINDS[parameter][1]:
        path = write({name: params[name] | {key: value}})

        assert load(path, name, SECTIONS[name]).model_dump(mode="json")[key] == value


def in_words(annotation, metadata) -> list[str]:
    """Say what a field admits in the words of the comments in params.yaml."""
    if annotation is bool:
        return ["true or false"]
    if get_origin(annotation) is Literal:
        return list(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        kind, info = get_args(get_args(annotation)[0])
        length = {"min_length": 0} | {
            word: getattr(constraint, word)
            for constraint in metadata
            for word in ("min_length", "max_length")
            if hasattr(constraint, word)
        }
        least, most = length["min_length"], length["max_length"]
        return [f"{least} to {most} of {words} each" for words in in_words(kind, info.metadata)]
    bound = {
        word: getattr(constraint, word)
        for constraint in metadata
        for word in ("gt", "ge", "lt", "le")
        if hasattr(constraint, word)
    }
    if "gt" in bound:
        upper = f"below {bound['lt']}" if "lt" in bound else f"at most {bound['le']}"
        return [f"above {bound['gt']}, {upper}"]
    upper = f"below {bound['lt']}" if "lt" in bound else bound.get("le")
    return [f"{bound['ge']} to {upper}"] if bound else []


def test_the_comment_beside_each_value_tells_what_is_allowed():
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        lines = re.search(rf"^{name}:\n((?: .*\n)+)", text, re.MULTILINE)[1]
        for key, field in section.model_fields.items():
            comment = re.search(rf"^  {key}:.*?# ((?:.+\n)(?:  +# .+\n)*)", lines, re.MULTILINE)
            comment = " ".join(comment[1].replace("#", " ").split())
            for words in in_words(field.annotation, field.metadata):
                pattern = rf"(?<![\w.]){re.escape(words)}(?![\w.])"
                assert re.search(pattern, comment), f"{name}.{key}: {words}"


# What YAML 1.1 and 1.2 take for different things, and what is easily mistaken.
TEXTS = {
    "epochs: 010": 10,
    "seed: 0042": 42,
    "seed: 0o17": 15,
    "seed: 0x10": 16,
    "seed: 1_000": 1000,
    "rate: 1e-05": 1e-05,
    "rate: 1E-5": 1e-05,
    "rate: 1.e-5": 1e-05,
    "rate: +1e-05": 1e-05,
    "rate: .5": 0.5,
    "rate: 1:30": "1:30",
    "answer: yes": "yes",
    "answer: on": "on",
    "answer: true": True,
    "image_size:": None,
    "image_size: ~": None,
    "list: [1, 2]": [1, 2],
    "list:\n- 1\n- 2": [1, 2],
    "text: '010'": "010",
    "text: !!str 10": "10",
    "ink: &ink 3\npaper: *ink": 3,
    "base: &base {a: 1}\nmore: {<<: *base, b: 2}": {"a": 1},
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_what_dvc_takes_it_for(write, text):
    document = read_yaml(write(text))

    assert repr(document) == repr(parse_yaml(text, "params.yaml"))
    assert next(iter(document.values())) == TEXTS[text]
    assert type(next(iter(document.values()))) is type(TEXTS[text])


def test_leading_zeros_and_powers_of_ten_are_the_numbers_that_dvc_records(params, write):
    text = yaml.safe_dump({"train": params["train"] | {"epochs": 77, "learning_rate": 0.77}})
    path = write(text.replace("epochs: 77", "epochs: 010").replace("rate: 0.77", "rate: 1e-05"))

    loaded = load(path, "train", TrainParams)

    assert (loaded.epochs, loaded.learning_rate) == (10, 1e-5)


@pytest.mark.parametrize(
    "text", ["train: {seed: 1, seed: 2}", "train:\n  seed: 1\ntrain:\n  seed: 2\n"]
)
def test_a_key_that_stands_twice_is_refused(write, refusal, text):
    message = refusal(load, write(text), "train", TrainParams)

    assert "is not valid YAML: " in message
    assert "duplicate key" in message
    assert "suppress" not in message
    assert message.endswith(CURE)


@pytest.mark.parametrize(
    ("section", "hint"),
    [
        ({"trian": {"epochs": 3}}, "unknown section 'trian'; did you mean 'train'?"),
        ({"train.epochs": 3}, "unknown section 'train.epochs'; "),
        ({"colour": "red"}, "unknown section 'colour'; known: fetch, prepare, train, evaluate"),
        ({1: {"epochs": 3}}, "unknown section '1'; known: "),
    ],
)
def test_an_unknown_section_is_refused_by_every_stage_with_a_hint(
    params, write, refusal, section, hint
):
    path = write(params | section)
    for name in SECTIONS:
        message = refusal(load, path, name, SECTIONS[name])

        assert hint in message
        assert message.endswith(CURE)


def test_an_unknown_key_suggests_the_nearest(params, write, refusal):
    path = write({"train": params["train"] | {"learning_rte": 0.1}})

    message = refusal(load, path, "train", TrainParams)

    assert (
        "unknown key in section 'train': 'learning_rte'; did you mean 'learning_rate'?" in message
    )
    assert message.endswith(CURE)


def test_no_parameter_has_a_name_that_dvcs_run_cache_passes_over():
    """It would bring back the results of another value (DVC's issue 10296)."""
    names = {name for section in SECTIONS.values() for name in section.model_fields}

    assert not names & {"size", "nfiles"}


@pytest.mark.parametrize("key", ["colour", 1, None, 2.5])
def test_an_unknown_key_like_no_other_lists_the_known_ones(params, write, refusal, key):
    path = write({"fetch": params["fetch"] | {key: "red"}})

    message = refusal(load, path, "fetch", FetchParams)

    assert f"unknown key in section 'fetch': '{key}'; known: dataset" in message


@pytest.mark.parametrize(
    ("name", "key"), [("fetch", "dataset"), ("prepare", "image_size"), ("train", "filters")]
)
def test_a_missing_key_is_named(params, write, refusal, name, key):
    rest = {other: value for other, value in params[name].items() if other != key}

    message = refusal(load, write({name: rest}), name, SECTIONS[name])

    assert f"key '{name}.{key}' is missing; allowed: " in message
    assert message.endswith(CURE)


def test_of_the_items_of_a_list_the_first_wrong_one_is_told(params, write, refusal):
    path = write({"train": params["train"] | {"filters": [8, 0, -1, "x"], "dense_units": [0]}})

    message = refusal(load, path, "train", TrainParams)

    assert re.findall(r"train\.\S+ is \S+;", message) == [
        "train.filters.1 is 0;",
        "train.dense_units.0 is 0;",
    ]


def test_all_problems_are_told_in_one_line(params, write, refusal):
    path = write({"train": params["train"] | {"epochs": 0, "batch_size": -1, "lr": 1}})

    message = refusal(load, path, "train", TrainParams)

    assert all(key in message for key in ("train.epochs", "train.batch_size", "lr"))


@pytest.mark.parametrize(
    "value",
    [[1] * 100_000, [[1] * 100_000, 2], {str(n): n for n in range(100_000)}, "x" * 100_000],
    ids=["list", "nested", "keys", "text"],
)
def test_a_value_of_100000_items_is_told_in_a_line_that_can_be_read(
    params, monkeypatch, refusal, value
):
    document = {"train": params["train"] | {"filters": value}}
    monkeypatch.setattr(library, "read_yaml", lambda _: document)  # which takes its time for it

    message = refusal(load, "params.yaml", "train", TrainParams)

    assert "train.filters" in message
    assert len(message) < 400


def test_of_many_problems_five_are_told(write, refusal):
    path = write({"train": {f"key {number} {'x' * 100}": 1 for number in range(100)}})

    message = refusal(load, path, "train", TrainParams)

    assert re.search(r"; and \d+ more; correct it", message)
    assert len(message) < 1200


@pytest.mark.parametrize("text", ["", "train:\n", "train: 5\n", "prepare: {}\n", "- train\n"])
def test_a_missing_section_is_named(write, refusal, text):
    message = refusal(load, write(text), "train", TrainParams)

    assert message.endswith(f"section 'train' is missing or has no keys{CURE}")


@pytest.mark.parametrize(
    "text",
    [
        "train: [1, 2",
        "train:\n\tseed: 1",
        "a: b: c",
        "train: !!python/name:os.system",
        "\0",
        "train: {seed: 2026-13-45}",  # of no calendar
        "[" * 1000,
        "<<<<<<< HEAD\ntrain: {seed: 1}\n=======\n",
        "a: 1\n---\na: 2\n",
        "train: *nowhere",
    ],
)
def test_what_is_not_yaml_is_refused(write, refusal, text):
    message = refusal(load, write(text), "train", TrainParams)

    assert "is not valid YAML: " in message
    assert "http" not in message
    assert len(message) < 500
    assert message.endswith(CURE)


def test_a_file_that_is_not_there_is_named(tmp_path, refusal):
    path = tmp_path / "params.yaml"

    message = refusal(load, path, "train", TrainParams)

    assert message.startswith(f"{path}: cannot be read: No such file or directory; see to it ")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path, refusal):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"train: \xff\xfe")

    assert f"{path}: cannot be read" in refusal(load, path, "train", TrainParams)


def test_the_parameters_cannot_be_changed():
    loaded = load(ROOT / "params.yaml", "evaluate", EvaluateParams)

    with pytest.raises(ValueError, match="frozen"):
        loaded.samples = 5


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("fetch", ["raw", "wanted"]),
        ("prepare", ["raw", "train", "validation", "test", "summary"]),
        ("train", ["train", "validation", "model", "history", "environment"]),
        ("evaluate", ["test", "model", "history", "predictions", "reports"]),
    ],
)
def test_a_stage_refuses_before_tensorflow_is_imported(tmp_path, write, name, paths):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")
    params_yaml = write({name: {"epochs": -1}})

    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", f"--params={params_yaml}"]
        + [f"--{path}={tmp_path / path}" for path in paths],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {params_yaml}: ")
    assert done.stderr.endswith(f"{CURE}\n")
    assert done.stderr.count("\n") == 1
