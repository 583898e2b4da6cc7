"""params.yaml is read strictly: each refusal is one line with key, value and what is allowed."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml

from stages.evaluate import EvaluateParams
from stages.params import UserError, load, run
from stages.prepare import PrepareParams
from stages.train import TrainParams

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SECTIONS = {"prepare": PrepareParams, "train": TrainParams, "evaluate": EvaluateParams}
FIELDS = [(name, key) for name, section in SECTIONS.items() for key in section.model_fields]
# Just outside on both sides, then what is wrong for this key alone.
OUT_OF_RANGE = {
    "prepare.validation_share": [0, 0.0, 1, 1.0, -0.1, 1.1],
    "train.seed": [-1, 2**32, 2**80, 42.0],
    "train.filters": [[], [32], [32, 64, 128], [0, 64], [32, 1025], [32.0, 64], [True, 64], 32],
    "train.kernel_size": [0, 6, 3.0],
    "train.dense_units": [0, 4097, 128.0],
    "train.dropout": [-0.1, 1, 1.0],
    "train.epochs": [0, 1001, 5.0],
    "train.batch_size": [0, 8193, 64.0],
    "train.learning_rate": [0, -0.001, 1.001],
    "train.schedule": ["cosin", "Cosine", "", 1],
    "train.warmup_share": [-0.1, 1, 1.0],
    "train.final_share": [-0.1, 1.1],
    "train.threads": [0, 257, 2.0],
    "train.precision": ["float16", "bfloat16", 32],
    "train.beta_1": [-0.1, 1, 1.0],
    "train.beta_2": [-0.1, 1, 1.0],
    "train.weight_decay": [-0.1, 1.1],
    "train.averaging": [-0.1, 1, 1.0],
    "train.shift": [-1, 14.5],
    "train.rotation": [-1, 181],
    "train.shear": [-0.1, 1.1],
    "train.scale": [-0.1, 1.1],
    "evaluate.calibration_bins": [1, 101, 15.0],
    "evaluate.samples": [4, 51, 10.0],
    "evaluate.mistakes": [5, 61, 24.0],
}
WRONG_FOR_ALL = [None, True, False, math.nan, math.inf, -math.inf, "5", "many", [], [0.5], {"a": 1}]
EDGES = {
    "prepare.validation_share": [0.001, 0.999],
    "train.seed": [0, 2**32 - 1],
    "train.filters": [[1, 1], [1024, 1024]],
    "train.kernel_size": [1, 5],
    "train.dense_units": [1, 4096],
    "train.dropout": [0, 0.0, 0.999],
    "train.epochs": [1, 1000],
    "train.batch_size": [1, 8192],
    "train.learning_rate": [1e-05, 1, 1.0],
    "train.schedule": ["constant", "cosine"],
    "train.warmup_share": [0, 0.999],
    "train.final_share": [0, 1],
    "train.threads": [1, 256],
    "train.precision": ["float32", "mixed_bfloat16"],
    "train.beta_1": [0, 0.999],
    "train.beta_2": [0, 0.999],
    "train.weight_decay": [0, 1],
    "train.averaging": [0, 0.9995],
    "train.shift": [0, 14],
    "train.rotation": [0, 180],
    "train.shear": [0, 1],
    "train.scale": [0, 1],
    "evaluate.calibration_bins": [2, 100],
    "evaluate.samples": [5, 50],
    "evaluate.mistakes": [6, 60],
}


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
    assert list(params) == list(SECTIONS)


@pytest.mark.parametrize("name", re.findall(r"^(\w+)_settings :=", MAKEFILE, re.MULTILINE))
def test_the_recipes_of_the_makefile_set_what_is_allowed(params, write, name):
    command = ["make", "--silent", f"settings-{name}"]
    settings = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert settings.startswith("train.")
    for setting in settings.split():
        key, value = setting.split("=")
        section, key = key.split(".")
        params = params | {section: params[section] | {key: yaml.safe_load(value)}}

    load(write(params), "train", TrainParams)


def test_the_tables_of_this_module_cover_every_parameter():
    keys = [f"{name}.{key}" for name, key in FIELDS]

    assert list(OUT_OF_RANGE) == keys
    assert list(EDGES) == keys


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_a_broken_value_is_refused_with_key_value_and_what_is_allowed(
    params, write, refusal, name, key
):
    for value in OUT_OF_RANGE[f"{name}.{key}"] + WRONG_FOR_ALL:
        path = write({name: params[name] | {key: value}})

        message = refusal(load, path, name, SECTIONS[name])

        pattern = rf"{re.escape(str(path))}: {name}\.{key}(\.\d)? is (.+?); allowed: .+"
        match = re.fullmatch(pattern, message)
        assert match, message
        values = [value, *value] if isinstance(value, list) else [value]
        assert match[2] in map(repr, values)


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_the_values_at_the_edge_are_allowed(params, write, name, key):
    for value in EDGES[f"{name}.{key}"]:
        path = write({name: params[name] | {key: value}})

        loaded = load(path, name, SECTIONS[name])

        assert loaded.model_dump(mode="json")[key] == value


def in_words(annotation, metadata) -> list[str]:
    """Say what a field admits in the words of the comments in params.yaml."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is tuple:
        kind, info = get_args(get_args(annotation)[0])
        return [f"{words} each" for words in in_words(kind, info.metadata)]
    bound = {
        word: getattr(constraint, word)
        for constraint in metadata
        for word in ("gt", "ge", "lt", "le")
        if hasattr(constraint, word)
    }
    if "gt" in bound:
        upper = f"below {bound['lt']}" if "lt" in bound else f"at most {bound['le']}"
        return [f"above {bound['gt']}, {upper}"]
    upper = f"below {bound['lt']}" if "lt" in bound else bound["le"]
    return [f"{bound['ge']} to {upper}"]


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_the_comment_beside_each_value_tells_what_is_allowed(name, key):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    section = re.search(rf"^{name}:\n((?: .*\n)+)", text, re.MULTILINE)[1]
    comment = re.search(rf"^  {key}:.*?# (.+)$", section, re.MULTILINE)[1]

    field = SECTIONS[name].model_fields[key]
    for words in in_words(field.annotation, field.metadata):
        assert re.search(rf"(?<![\w.]){re.escape(words)}(?![\w.])", comment), words


@pytest.mark.parametrize(("name", "key"), FIELDS)
def test_a_missing_key_is_named(params, write, refusal, name, key):
    rest = {other: value for other, value in params[name].items() if other != key}

    message = refusal(load, write({name: rest}), name, SECTIONS[name])

    assert f"key '{name}.{key}' is missing; allowed: " in message


def test_an_unknown_key_suggests_the_nearest(params, write, refusal):
    path = write({"train": params["train"] | {"learning_rte": 0.1}})

    message = refusal(load, path, "train", TrainParams)

    assert message.endswith("unknown key 'train.learning_rte'; did you mean 'learning_rate'?")


def test_an_unknown_key_like_no_other_lists_the_known_ones(params, write, refusal):
    path = write({"prepare": params["prepare"] | {"colour": "red"}})

    message = refusal(load, path, "prepare", PrepareParams)

    assert message.endswith("unknown key 'prepare.colour'; known keys: validation_share")


@pytest.mark.parametrize("key", [1, None, 2.5])
def test_a_key_that_is_no_word_is_unknown(params, write, refusal, key):
    path = write({"prepare": params["prepare"] | {key: 1}})

    assert f"unknown key 'prepare.{key}'" in refusal(load, path, "prepare", PrepareParams)


def test_all_problems_are_told_in_one_line(params, write, refusal):
    path = write({"train": params["train"] | {"epochs": 0, "batch_size": -1, "lr": 1}})

    message = refusal(load, path, "train", TrainParams)

    assert all(key in message for key in ("train.epochs", "train.batch_size", "train.lr"))


@pytest.mark.parametrize("text", ["", "train:\n", "train: 5\n", "prepare: {}\n", "- train\n"])
def test_a_missing_section_is_named(write, refusal, text):
    message = refusal(load, write(text), "train", TrainParams)

    assert message.endswith("section 'train' is missing or has no keys")


@pytest.mark.parametrize(
    "text", ["train: [1, 2", "train:\n\tseed: 1", "a: b: c", "train: !!python/name:os.system", "\0"]
)
def test_what_is_not_yaml_is_refused(write, refusal, text):
    assert "is not valid YAML" in refusal(load, write(text), "train", TrainParams)


def test_an_impossible_date_is_refused_as_yaml(write, refusal):
    path = write("train: {seed: 2026-13-45}")

    assert "is not valid YAML" in refusal(load, path, "train", TrainParams)


def test_a_file_that_is_not_there_is_named(tmp_path, refusal):
    path = tmp_path / "params.yaml"

    message = refusal(load, path, "train", TrainParams)

    assert message == f"{path}: cannot be read: No such file or directory"


def test_a_file_that_is_not_utf_8_is_refused(tmp_path, refusal):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"train: \xff\xfe")

    assert f"{path}: cannot be read" in refusal(load, path, "train", TrainParams)


@pytest.mark.parametrize("written", ["1e-05", "1E-5", "1.e-5", "+1e-05", "0.00001", "1.0e-05"])
def test_a_power_of_ten_is_a_number_however_it_is_written(params, write, written):
    text = yaml.safe_dump({"train": params["train"] | {"learning_rate": 0.5}})
    path = write(text.replace("learning_rate: 0.5", f"learning_rate: {written}"))

    assert load(path, "train", TrainParams).learning_rate == 1e-5


def test_the_parameters_cannot_be_changed():
    loaded = load(ROOT / "params.yaml", "prepare", PrepareParams)

    with pytest.raises(ValueError, match="frozen"):
        loaded.validation_share = 0.5


def test_run_prints_a_refusal_as_one_line_and_returns_1(capsys):
    def refuse():
        raise UserError("params.yaml: is wrong")

    assert run(refuse) == 1
    assert capsys.readouterr() == ("", "error: params.yaml: is wrong\n")


def test_run_returns_0_after_success_and_lets_our_own_bugs_through():
    assert run(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("prepare", ["raw", "train", "validation", "test"]),
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
    assert done.stderr.count("\n") == 1
