"""The stage writes what its docstring says, the same bytes whenever the model is the same."""

import csv
import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from cnn import archive, statistics
from cnn.data import Data, fingerprints, load, save
from cnn.files import CURE
from cnn.params import read_yaml
from cnn.runtime import keras
from stages import evaluate

FORM = (28, 28, 1), 10
TEXT = dict.fromkeys(("class", "actual", "predicted"), str)
TABLES = ("confusion", "per_class", "reliability", "roc")


@pytest.fixture(scope="module")
def run_evaluate(prepared, trained, tiny_yaml):
    """Call the stage on the trained model, with some paths replaced; return the folder."""

    def call(folder, **paths):
        paths = {
            "params": tiny_yaml,
            "test": prepared / "test.npz",
            "model": trained / "cnn.keras",
            "history": trained / "training.csv",
            "predictions": folder / "predictions.npz",
            "reports": folder / "reports",
        } | paths
        evaluate.main([f"--{name}={path}" for name, path in paths.items()])
        return folder

    return call


@pytest.fixture(scope="module")
def evaluated(run_evaluate, tmp_path_factory):
    """The folder into which the stage wrote."""
    return run_evaluate(tmp_path_factory.mktemp("evaluated"))


def test_the_predictions_are_those_of_the_model(evaluated, prepared, trained, tf):
    images, labels, classes = load(prepared / "test.npz")

    with np.load(evaluated / "predictions.npz") as arrays:
        assert sorted(arrays) == ["classes", "images", "labels", "probabilities"]
        np.testing.assert_array_equal(arrays["labels"], labels)
        np.testing.assert_array_equal(arrays["classes"], classes)
        np.testing.assert_array_equal(arrays["images"], fingerprints(images))
        probabilities = arrays["probabilities"]

    assert (probabilities.dtype, probabilities.shape) == (np.float32, (len(labels), 10))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    expected = np.asarray(archive.load(trained / "cnn.keras", *FORM)(images))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_the_numbers_are_those_of_the_predictions_to_six_decimals(evaluated):
    with np.load(evaluated / "predictions.npz") as arrays:
        labels, probabilities = arrays["labels"], arrays["probabilities"]
        classes = arrays["classes"].tolist()
    metrics, scores, tables = statistics.evaluate(labels, probabilities, classes, bins=5)

    for name, expected in (("metrics", metrics), ("scores", scores)):
        found = json.loads((evaluated / "reports" / f"{name}.json").read_text())
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=5.1e-7)
        assert all(isinstance(value, int) == (key == "errors") for key, value in found.items())
    for name in TABLES:
        table = pd.read_csv(evaluated / "reports" / f"{name}.csv", dtype=TEXT)
        pd.testing.assert_frame_equal(table, tables[name], rtol=0, atol=5.1e-7, check_dtype=False)


def test_per_class_json_has_the_numbers_of_per_class_csv(evaluated):
    by_class = json.loads((evaluated / "reports" / "per_class.json").read_text())
    with open(evaluated / "reports" / "per_class.csv", newline="") as stream:
        rows = {row.pop("class"): row for row in csv.DictReader(stream)}

    assert list(by_class) == [str(digit) for digit in range(10)]
    assert {
        name: {key: float(value) for key, value in row.items()} for name, row in rows.items()
    } == by_class


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_a_csv_that_ends_its_lines_as_on_unix(evaluated, table):
    content = (evaluated / "reports" / f"{table}.csv").read_bytes()

    assert b"\r" not in content
    assert content.endswith(b"\n")


def test_the_reports_are_those_that_dvc_yaml_names(evaluated, pytestconfig):
    stage = read_yaml(pytestconfig.rootpath / "dvc.yaml")["stages"]["evaluate"]
    named = [next(iter(entry)) for entry in stage["metrics"] + stage["plots"]]

    written = [f"reports/evaluate/{path.name}" for path in (evaluated / "reports").iterdir()]

    assert sorted(written) == sorted(named)


def test_names_of_classes_stand_in_every_file_as_they_are(tmp_path):
    names = ["nan", 'say "a, b"', "Käfer"]
    labels = np.arange(30) % 3
    results = statistics.evaluate(labels, np.eye(3, dtype=np.float32)[labels], names, bins=5)

    evaluate.write_results(*results, tmp_path)

    assert list(json.loads((tmp_path / "per_class.json").read_text(encoding="utf-8"))) == names
    with open(tmp_path / "confusion.csv", newline="", encoding="utf-8") as stream:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(stream)]
    assert pairs == [(actual, read) for actual in names for read in names]


def test_a_model_that_was_trained_further_by_hand_is_evaluated(prepared, trained, tf, tmp_path):
    images, labels, _ = load(prepared / "train.npz")
    network = keras.models.load_model(trained / "cnn.keras")
    network.fit(images[:64], labels[:64], verbose=0)
    network.save(tmp_path / "further.keras")

    probabilities = evaluate.predict(prepared / "test.npz", tmp_path / "further.keras")

    expected = network.predict(load(prepared / "test.npz").images, verbose=0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_a_class_without_an_image_is_refused(run_evaluate, prepared, tmp_path, refusal):
    images, labels, classes = load(prepared / "test.npz")
    kept = ~np.isin(labels, [3, 8])
    path = tmp_path / "test.npz"
    save(path, Data(images[kept], labels[kept], classes))

    message = refusal(run_evaluate, tmp_path, test=path)

    assert message == f"{path}: has no image of class 3; run 'dvc repro'"


def test_a_model_that_gives_no_probabilities_is_refused(prepared, trained, tmp_path, refusal, tf):
    network = archive.load(trained / "cnn.keras", *FORM)
    network.set_weights([np.full_like(weight, np.nan) for weight in network.get_weights()])
    path = tmp_path / "cnn.keras"
    archive.save(network, path)

    message = refusal(evaluate.predict, prepared / "test.npz", path)

    assert message == (
        f"{path}: gives values that are no probabilities; run 'dvc repro --force train'"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test", "is missing; run 'dvc repro'"),
        ("model", "is missing; run 'make repro'"),
    ],
)
def test_a_missing_input_is_named(run_evaluate, tmp_path, refusal, name, reason):
    path = tmp_path / "missing"

    assert refusal(run_evaluate, tmp_path, **{name: path}) == f"{path}: {reason}"
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_images_is_refused(run_evaluate, tmp_path, refusal):
    path = tmp_path / "test.npz"
    save(path, Data(np.zeros((4, 8, 8, 3), np.float32), np.arange(4) % 2, np.array(["a", "b"])))

    message = refusal(run_evaluate, tmp_path, test=path)

    assert "cnn.keras: its input is [28, 28, 1], not [8, 8, 3]; " in message


def test_the_curves_are_read_a_row_per_epoch(trained):
    history = evaluate.read_history(trained / "training.csv")

    assert history["epoch"].tolist() == [1]
    assert 0 < history["accuracy"].iloc[0] < 1


def test_missing_curves_are_named(tmp_path, refusal):
    path = tmp_path / "training.csv"

    assert refusal(evaluate.read_history, path) == f"{path}: is missing; run 'dvc repro'"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"epoch,accuracy\n1,0.5\n",
        b"epoch,accuracy,loss,validation_accuracy,validation_loss\n",
        b"epoch,accuracy,loss,validation_accuracy,validation_loss\n1,a,b,c,d\n",
        b'"',
        b"<<<<<<< HEAD\n",
    ],
    ids=["none", "bytes", "columns", "rows", "letters", "quote", "conflict"],
)
def test_curves_of_another_form_are_refused(tmp_path, refusal, content):
    path = tmp_path / "training.csv"
    path.write_bytes(content)

    message = refusal(evaluate.read_history, path)

    assert message.startswith(f"{path}: ")
    assert message.endswith(CURE)


def test_the_predictions_are_whole(evaluated):
    with zipfile.ZipFile(evaluated / "predictions.npz") as file:
        assert file.testzip() is None
