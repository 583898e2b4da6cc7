"""The stage writes what its docstring says, the same bytes whenever the model is the same."""

import csv
import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml

from cnn import archive, statistics
from cnn.archive import Adam
from cnn.data import Data, fingerprints, load, save
from cnn.files import CURE
from cnn.params import read_yaml
from cnn.runtime import keras
from stages import evaluate

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


def test_the_predictions_are_those_that_keras_computes_of_the_model(
    evaluated, prepared, trained, tf
):
    images, labels, classes = load(prepared / "test.npz")

    with np.load(evaluated / "predictions.npz") as arrays:
        assert sorted(arrays) == ["classes", "images", "labels", "probabilities"]
        np.testing.assert_array_equal(arrays["labels"], labels)
        np.testing.assert_array_equal(arrays["classes"], classes)
        np.testing.assert_array_equal(arrays["images"], fingerprints(images))
        probabilities = arrays["probabilities"]

    assert (probabilities.dtype, probabilities.shape) == (np.float32, (len(labels), 10))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    expected = keras.models.load_model(trained / "cnn.keras").predict(images, verbose=0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_of_the_engine_exact_it_needs_no_tensorflow(evaluated, run_evaluate, tmp_path, monkeypatch):
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it raises

    run_evaluate(tmp_path)

    again, before = ((path / "predictions.npz").read_bytes() for path in (tmp_path, evaluated))
    assert again == before


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


@pytest.mark.parametrize("engine", ["exact", "keras"])
def test_a_model_that_was_trained_further_by_hand_is_evaluated(
    prepared, trained, tf, tmp_path, engine
):
    images, labels, _ = load(prepared / "train.npz")
    network = keras.models.load_model(trained / "cnn.keras")
    network.fit(images[:64], labels[:64], verbose=0)
    network.save(tmp_path / "further.keras")
    given = load(prepared / "test.npz")

    probabilities = evaluate.predict(given, tmp_path / "further.keras", engine)

    expected = network.predict(given.images, verbose=0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


@pytest.fixture
def other_layers(tf, tmp_path):
    """A model with a layer that the kernels do not know, as an own `build` of the engine keras."""
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(name="normal"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    network.save(tmp_path / "other.keras")
    return network, tmp_path / "other.keras"


def test_of_the_engine_keras_a_model_of_any_layers_is_evaluated(
    run_evaluate, other_layers, tiny, prepared, tmp_path
):
    network, path = other_layers
    params = tmp_path / "keras.yaml"
    params.write_text(yaml.safe_dump(tiny | {"train": tiny["train"] | {"engine": "keras"}}))

    run_evaluate(tmp_path, model=path, params=params)

    with np.load(tmp_path / "predictions.npz") as arrays:
        probabilities = arrays["probabilities"]
    expected = network.predict(load(prepared / "test.npz").images, verbose=0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_of_the_engine_exact_a_model_of_other_layers_is_refused(
    run_evaluate, other_layers, tmp_path, refusal
):
    _, path = other_layers

    message = refusal(run_evaluate, tmp_path, model=path)

    assert message.startswith(f"{path}: its layer normal is a keras.layers.BatchNormalization; ")
    assert not (tmp_path / "predictions.npz").exists()


def test_a_class_without_an_image_is_refused(run_evaluate, prepared, tmp_path, refusal):
    images, labels, classes = load(prepared / "test.npz")
    kept = ~np.isin(labels, [3, 8])
    path = tmp_path / "test.npz"
    save(path, Data(images[kept], labels[kept], classes))

    message = refusal(run_evaluate, tmp_path, test=path)

    assert message == f"{path}: has no image of class 3; run 'dvc repro'"


def changed(trained, path, change):
    """Write the tiny model with the weights that `change` makes of its own; return the path."""
    network, arrays = archive.read(trained / "cnn.keras")
    archive.write(
        path, network, change(arrays), Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, [])
    )
    return path


@pytest.mark.parametrize("engine", ["exact", "keras"])
def test_a_model_with_a_weight_that_is_no_number_is_refused_by_its_layer(
    prepared, trained, tmp_path, refusal, tf, engine
):
    """A maximum and a ReLU make 0 of NaN, and probabilities look well then."""

    def change(arrays):
        broken = [array.copy() for array in arrays]
        broken[2][0, 0, 0, 0] = np.nan
        return broken

    path = changed(trained, tmp_path / "cnn.keras", change)

    message = refusal(evaluate.predict, load(prepared / "test.npz"), path, engine)

    assert message.startswith(f"{path}: its layer convolution_2 has weights that are not finite; ")
    assert "run 'dvc repro" in message


@pytest.mark.parametrize("engine", ["exact", "keras"])
def test_a_model_that_gives_no_probabilities_is_refused(
    prepared, trained, tmp_path, refusal, tf, engine
):
    def too_large(arrays):
        return [np.full_like(array, 1e38) for array in arrays]

    path = changed(trained, tmp_path / "cnn.keras", too_large)

    message = refusal(evaluate.predict, load(prepared / "test.npz"), path, engine)

    assert message == (
        f"{path}: gives values that are no probabilities; run 'dvc repro --force train'"
    )


@pytest.mark.parametrize("classes", [2, 11])
def test_of_the_engine_keras_too_a_model_of_other_classes_is_refused(
    prepared, trained, tmp_path, refusal, tf, classes
):
    given = load(prepared / "test.npz")._replace(classes=np.arange(classes).astype(str))

    message = refusal(evaluate.predict, given, trained / "cnn.keras", "keras")

    assert message.endswith(
        ": gives values that are no probabilities; run 'dvc repro --force train'"
    )


def test_of_the_engine_keras_too_a_model_of_other_images_is_refused(trained, refusal, tf):
    other = Data(np.zeros((4, 8, 8, 3), np.float32), np.arange(4), np.arange(10).astype(str))

    message = refusal(evaluate.predict, other, trained / "cnn.keras", "keras")

    assert message == (
        f"{trained}/cnn.keras: does not take images of [8, 8, 3]; run 'dvc repro --force train'"
    )


@pytest.mark.parametrize("engine", ["exact", "keras"])
@pytest.mark.parametrize("damage", ["a bit", "half", "all"])
def test_a_damaged_model_is_refused_with_the_cure(
    prepared, trained, tmp_path, refusal, tf, engine, damage
):
    content = bytearray((trained / "cnn.keras").read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    path = tmp_path / "cnn.keras"
    path.write_bytes({"a bit": content, "half": content[:middle], "all": b""}[damage])

    message = refusal(evaluate.predict, load(prepared / "test.npz"), path, engine)

    assert message.startswith(f"{path}: ")
    assert message.endswith(f"; {CURE}")


@pytest.mark.parametrize("engine", ["exact", "keras"])
def test_a_missing_model_is_named(prepared, tmp_path, refusal, tf, engine):
    message = refusal(evaluate.predict, load(prepared / "test.npz"), tmp_path / "cnn", engine)

    assert message == f"{tmp_path}/cnn: is missing; run 'make repro'"


def test_the_engine_is_the_one_of_params_yaml_or_refused(run_evaluate, tiny, tmp_path, refusal):
    path = tmp_path / "params.yaml"
    path.write_text(
        yaml.safe_dump(tiny | {"train": {"engine": "torch", "epochs": "not looked at"}})
    )

    message = refusal(run_evaluate, tmp_path, params=path)

    assert message.startswith(
        f"{path}: train.engine is 'torch'; allowed: exact or keras; correct it"
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
