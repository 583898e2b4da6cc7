"""params.yaml is read as DVC reads it, and strictly: a refusal is one line with what is allowed."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import parse_yaml

from cnn.base import params as library
from cnn.base.params import CORRECT, allowed, load, read_yaml
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
# One parameter for each kind of bound: what is wrong for it, what its edges are, what is said.
KINDS = {
    "train.epochs": ([0, 1001, 5.0], [1, 1000], "a whole number, 1 to 1000"),
    "train.seed": ([-1, 2**32, 2**80], [0, 2**32 - 1], "a whole number, 0 to 4294967295"),
    "prepare.validation_share": (
        [0, 0.0, 1, 1.0, -0.1, 1.1], [0.001, 0.999], "a number, above 0, below 1"),
    "train.dropout": ([-0.1, 1, 1.0], [0, 0.0, 0.999], "a number, 0 to below 1"),
    "train.learning_rate": ([0, -0.001, 1.001], [1e-05, 1, 1.0], "a number, above 0, at most 1"),
    "train.rotation": ([-1, 181], [0, 180], "a number, 0 to 180"),
    "train.engine": (["Exact", "keras ", "pytorch", 1], ["exact", "keras"], "exact or keras"),
    "train.filters": (
        [[1] * 7, [0, 64], [32, 1025], [32.0, 64], [True, 64], [[32], 64], [32.0], 32, "32, 64"],
        [[1], [1024] * 6, [32, 64]],
        "a list of whole numbers, 1 to 6 of 1 to 1024 each",
    ),
    "train.dense_units": (
        [[1] * 4, [0], [128, 4097], [128.0], [True], 128],
        [[], [1], [4096] * 3],
        "a list of whole numbers, 0 to 3 of 1 to 4096 each",
    ),
    "prepare.image_size": ([7, 257, 28.0], [None, 8, 256], "a whole number, 8 to 256, or empty"),
    "prepare.channels": ([0, 2, 4, 1.0], [None, 1, 3], "1 or 3, or empty"),
    "train.resume": ([0, 1, "yes"], [True, False], "true or false"),
    "train.shards": ([0, 3, 128, 4.0], [1, 4, 64], "1, 2, 4, 8, 16, 32 or 64"),
}  # fmt: skip
WRONG_FOR_ALL = [True, False, math.nan, math.inf, -math.inf, "5", "many", [], {"a": 1}, None]


@pytest.fixture
def write(tmp_path):
    """Write a document, or a text as it is, as params.yaml."""

    def call(document) -> Path:
        path = tmp_path / "params.yaml"
        text = document if isinstance(document, str) else yaml.safe_dump(document)
        path.write_text(text, encoding="utf-8")
        return path

    return call


def test_the_committed_file_has_the_sections_of_the_stages_and_loads_with_every_key(params):
    assert list(params) == list(SECTIONS) == list(library.SECTIONS)
    for name, section in SECTIONS.items():
        assert load(ROOT / "params.yaml", name, section).model_dump(mode="json") == params[name]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_comment_beside_each_value_ends_with_what_is_allowed(name):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    lines = re.search(rf"^{name}:\n((?: .*\n)+)", text, re.MULTILINE)[1]
    for key, field in SECTIONS[name].model_fields.items():
        comment = re.search(rf"^  {key}:.*?(# .+\n(?:  +# .+\n)*)", lines, re.MULTILINE)[1]
        comment = " ".join(comment.replace("#", " ").split())
        assert re.search(rf"(^|; ){re.escape(allowed(field))}$", comment), key


@pytest.mark.parametrize("parameter", KINDS)
def test_a_broken_value_is_refused_with_key_value_and_what_is_allowed(
    params, write, refusal, parameter
):
    name, key = parameter.split(".")
    wrong, edges, words = KINDS[parameter]
    for value in wrong + [each for each in WRONG_FOR_ALL if repr(each) not in map(repr, edges)]:
        path = write({name: params[name] | {key: value}})

        message = refusal(load, path, name, SECTIONS[name])

        end = re.escape(f"; allowed: {words}; {CORRECT}")
        match = re.fullmatch(rf"{re.escape(f'{path}: {parameter}')}(\.\d)? is (.+?){end}", message)
        assert match, message
        assert match[2] == repr(value[int(match[1][1:])] if match[1] else value)


@pytest.mark.parametrize("parameter", KINDS)
def test_the_values_at_the_edge_are_allowed(params, write, parameter):
    name, key = parameter.split(".")
    for value in KINDS[parameter][1]:
        path = write({name: params[name] | {key: value}})

        assert load(path, name, SECTIONS[name]).model_dump(mode="json")[key] == value


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
    assert repr(next(iter(document.values()))) == repr(TEXTS[text])


@pytest.mark.parametrize(
    ("document", "hint"),
    [
        ({"trian": {"epochs": 3}}, "unknown section 'trian'; did you mean 'train'?"),
        ({"train.epochs": 3}, "unknown section 'train.epochs'; "),
        ({"colour": "red"}, "unknown section 'colour'; known: fetch, prepare, train, evaluate"),
        ({1: {"epochs": 3}}, "unknown section '1'; known: "),
    ],
)
def test_an_unknown_section_is_refused_by_every_stage_with_a_hint(
    params, write, refusal, document, hint
):
    path = write(params | document)
    for name, section in SECTIONS.items():
        message = refusal(load, path, name, section)

        assert hint in message
        assert message.endswith(CORRECT)


@pytest.mark.parametrize(
    ("name", "key", "hint"),
    [
        ("train", "learning_rte", "'learning_rte'; did you mean 'learning_rate'?"),
        ("fetch", "colour", "'colour'; known: dataset"),
        ("fetch", 1, "'1'; known: dataset"),
        ("fetch", None, "'None'; known: dataset"),
        ("fetch", 2.5, "'2.5'; known: dataset"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_or_lists_the_known_ones(
    params, write, refusal, name, key, hint
):
    message = refusal(load, write({name: params[name] | {key: 0.1}}), name, SECTIONS[name])

    assert f"unknown key in section '{name}': {hint}" in message
    assert message.endswith(CORRECT)


def test_no_parameter_has_a_name_that_dvcs_run_cache_passes_over():
    """It would bring back the results of another value (DVC's issue 10296)."""
    names = {name for section in SECTIONS.values() for name in section.model_fields}

    assert not names & {"size", "nfiles"}


@pytest.mark.parametrize(
    ("name", "key"), [("fetch", "dataset"), ("prepare", "image_size"), ("train", "filters")]
)
def test_a_missing_key_is_named(params, write, refusal, name, key):
    rest = {other: value for other, value in params[name].items() if other != key}

    message = refusal(load, write({name: rest}), name, SECTIONS[name])

    assert f"key '{name}.{key}' is missing; allowed: " in message
    assert message.endswith(CORRECT)


def test_all_problems_are_named_in_one_line_and_of_a_list_the_first_wrong_item(
    params, write, refusal
):
    broken = {"filters": [8, 0, -1, "x"], "dense_units": [0], "epochs": 0, "lr": 1}

    message = refusal(load, write({"train": params["train"] | broken}), "train", TrainParams)

    named = ["train.filters.1 is 0;", "train.dense_units.0 is 0;", "train.epochs is 0;"]
    assert sorted(re.findall(r"train\.\S+ is \S+;", message)) == sorted(named)
    assert "unknown key in section 'train': 'lr'" in message


@pytest.mark.parametrize(
    "value",
    [[1] * 100_000, [[1] * 100_000, 2], {str(n): n for n in range(100_000)}, "x" * 100_000],
    ids=["list", "nested", "keys", "text"],
)
def test_100000_problems_give_a_line_that_can_be_read(params, monkeypatch, refusal, value):
    document = {"train": params["train"] | {"filters": value}}
    monkeypatch.setattr(library, "read_yaml", lambda _: document)  # which takes its time for it

    message = refusal(load, "params.yaml", "train", TrainParams)
    assert "train.filters" in message
    assert len(message) < 400

    document["train"] |= {f"key {number} {'x' * 100}": 1 for number in range(100)}
    message = refusal(load, "params.yaml", "train", TrainParams)
    assert re.search(r"; and \d+ more; correct it", message)
    assert len(message) < 2000


@pytest.mark.parametrize("text", ["", "train:\n", "train: 5\n", "prepare: {}\n", "- train\n"])
def test_a_missing_section_is_named(write, refusal, text):
    message = refusal(load, write(text), "train", TrainParams)

    assert message.endswith(f"section 'train' is missing or has no keys; {CORRECT}")


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
        "train: {seed: 1, seed: 2}",  # which of the two?
        "train:\n  seed: 1\ntrain:\n  seed: 2\n",
    ],
)
def test_what_is_not_yaml_is_refused(write, refusal, text):
    message = refusal(load, write(text), "train", TrainParams)

    assert "is not valid YAML: " in message
    assert "http" not in message
    assert "suppress" not in message
    assert len(message) < 500
    assert message.endswith(CORRECT)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path, refusal):
    path = tmp_path / "params.yaml"

    message = refusal(load, path, "train", TrainParams)
    assert message.startswith(f"{path}: cannot be read: No such file or directory; see to it ")

    path.write_bytes(b"train: \xff\xfe")
    assert refusal(load, path, "train", TrainParams).startswith(f"{path}: cannot be read: ")


def test_the_parameters_cannot_be_changed():
    loaded = load(ROOT / "params.yaml", "evaluate", EvaluateParams)

    with pytest.raises(ValueError, match="frozen"):
        loaded.samples = 5


@pytest.mark.parametrize("name", SECTIONS)
def test_a_stage_refuses_before_tensorflow_is_imported(tmp_path, write, name):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")
    params_yaml = write({name: {"epochs": -1}})
    command = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["cmd"]

    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", f"--params={params_yaml}"]
        + [f"{flag}={tmp_path / flag}" for flag in re.findall(r"--\S+", command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {params_yaml}: ")
    assert done.stderr.endswith(f"{CORRECT}\n")
    assert done.stderr.count("\n") == 1
