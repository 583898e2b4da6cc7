"""The stage writes what its docstring says, the same bytes whenever the model is the same."""

import csv
import json
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml

from cnn.base.files import REPAIR
from cnn.base.params import read_yaml
from cnn.data.sets import Data, fingerprints, load, save
from cnn.model import archive
from cnn.model.archive import Adam
from cnn.results import fonts, gallery, metrics, suspects, tables
from stages import evaluate
from tests.helpers.late import keras

FORCE = "run 'dvc repro --force train'"


@pytest.fixture(scope="module")
def run_evaluate(prepared, trained, tiny_yaml):
    """Call the stage on the trained model, with some paths replaced; return the folder."""

    def call(folder, **paths):
        paths = {
            "params": tiny_yaml,
            "test": prepared / "test.npz",
            "validation": prepared / "validation.npz",
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


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(gallery, "draw_all", lambda folder, results: "")


def read(path) -> dict[str, np.ndarray]:
    with np.load(path / "predictions.npz") as arrays:
        return dict(arrays)


def test_the_predictions_are_those_that_keras_computes_of_the_model(
    evaluated, prepared, trained, tf
):
    images, labels, classes = load(prepared / "test.npz")
    expected = keras.models.load_model(trained / "cnn.keras").predict(images, verbose=0)

    found = read(evaluated)

    assert sorted(found) == ["classes", "images", "labels", "probabilities"]
    np.testing.assert_array_equal(found["labels"], labels)
    np.testing.assert_array_equal(found["classes"], classes)
    np.testing.assert_array_equal(found["images"], fingerprints(images))
    assert found["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)


def test_of_the_engine_exact_it_needs_no_tensorflow_and_gives_the_same_bytes_again(
    evaluated, run_evaluate, tmp_path, monkeypatch, without_pictures
):
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it raises

    run_evaluate(tmp_path)

    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert path.read_bytes() == (evaluated / path.relative_to(tmp_path)).read_bytes(), path


def test_the_numbers_are_those_of_the_predictions_to_six_decimals(evaluated, prepared, trained):
    arrays, reports = read(evaluated), evaluated / "reports"
    classes = arrays["classes"].tolist()
    expected = metrics.evaluate(arrays["labels"], arrays["probabilities"], classes, bins=5)
    splits = {"test": suspects.Split(arrays["labels"], arrays["probabilities"], arrays["images"])}
    images, labels, _ = load(prepared / "validation.npz")
    probabilities = evaluate.predict(
        load(prepared / "validation.npz"), trained / "cnn.keras", "exact"
    )
    splits["validation"] = suspects.Split(labels, probabilities, fingerprints(images))
    doubted = suspects.table(splits, classes)
    expected.scores["labels_in_doubt"] = len(doubted)
    expected.tables["suspects"] = doubted[:6]
    assert 0 < len(doubted) < len(labels)

    for name, numbers in (("metrics", expected.headlines), ("scores", expected.scores)):
        found = json.loads((reports / f"{name}.json").read_text())
        assert list(found) == list(numbers)
        assert found == pytest.approx(numbers, abs=5.1e-7)
        counts = ("errors", "labels_in_doubt")
        assert all(isinstance(value, int) == (key in counts) for key, value in found.items())
    text = dict.fromkeys(("class", "actual", "predicted", "label", "split", "image"), str)
    for name, table in expected.tables.items():
        content = (reports / f"{name}.csv").read_bytes()
        assert b"\r" not in content
        assert content.endswith(b"\n")
        found = pd.read_csv(reports / f"{name}.csv", dtype=text)
        pd.testing.assert_frame_equal(found, table, rtol=0, atol=5.1e-7, check_dtype=False)
    by_class = json.loads((reports / "per_class.json").read_text())
    with open(reports / "per_class.csv", newline="") as stream:
        rows = {row.pop("class"): row for row in csv.DictReader(stream)}
    assert list(by_class) == [str(digit) for digit in range(10)]
    assert by_class == {
        name: {key: float(value) for key, value in row.items()} for name, row in rows.items()
    }


def test_the_reports_are_those_that_dvc_yaml_names(evaluated, pytestconfig):
    stage = read_yaml(pytestconfig.rootpath / "dvc.yaml")["stages"]["evaluate"]
    named = [next(iter(entry)) for entry in stage["metrics"] + stage["plots"]]

    written = [f"reports/evaluate/{path.name}" for path in (evaluated / "reports").iterdir()]

    assert sorted(written) == sorted(named)


def test_names_of_classes_stand_in_every_file_as_they_are(tmp_path):
    names = ["nan", 'say "a, b"', "Käfer"]
    labels = np.arange(30) % 3

    tables.write(*metrics.evaluate(labels, np.eye(3, dtype=np.float32)[labels], names, 5), tmp_path)

    assert list(json.loads((tmp_path / "per_class.json").read_text(encoding="utf-8"))) == names
    with open(tmp_path / "confusion.csv", newline="", encoding="utf-8") as stream:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(stream)]
    assert pairs == [(actual, read) for actual in names for read in names]


@pytest.fixture(scope="module")
def other_layers(tmp_path_factory):
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
    path = tmp_path_factory.mktemp("other") / "other.keras"
    network.save(path)
    return network, path


@pytest.fixture(scope="module")
def further(prepared, trained, tmp_path_factory):
    """The trained model, trained further by hand."""
    images, labels, _ = load(prepared / "train.npz")
    network = keras.models.load_model(trained / "cnn.keras")
    network.fit(images[:64], labels[:64], verbose=0)
    path = tmp_path_factory.mktemp("further") / "further.keras"
    network.save(path)
    return network, path


@pytest.mark.parametrize(
    ("model", "engine"), [("further", "exact"), ("further", "keras"), ("other_layers", "keras")]
)
def test_a_model_that_was_trained_further_or_has_other_layers_is_evaluated(
    request, run_evaluate, prepared, tiny, tmp_path, without_pictures, tf, model, engine
):
    network, path = request.getfixturevalue(model)
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(tiny | {"train": tiny["train"] | {"engine": engine}}))

    run_evaluate(tmp_path, model=path, params=params)

    expected = network.predict(load(prepared / "test.npz").images, verbose=0)
    np.testing.assert_allclose(read(tmp_path)["probabilities"], expected, atol=1e-6)


def test_of_the_engine_exact_a_model_of_other_layers_is_refused(
    run_evaluate, other_layers, tmp_path, refusal
):
    _, path = other_layers

    message = refusal(run_evaluate, tmp_path, model=path)

    assert message.startswith(f"{path}: its layer normal is a keras.layers.BatchNormalization; ")
    assert not (tmp_path / "predictions.npz").exists()


def test_test_images_that_do_not_fit_are_refused(run_evaluate, prepared, tmp_path, refusal):
    images, labels, classes = load(prepared / "test.npz")
    kept = ~np.isin(labels, [3, 8])
    path = tmp_path / "test.npz"
    save(path, Data(images[kept], labels[kept], classes))
    message = refusal(run_evaluate, tmp_path, test=path)
    assert message == f"{path}: has no image of class 3; run 'dvc repro'"

    save(path, Data(np.zeros((4, 8, 8, 3), np.float32), np.arange(4) % 2, np.array(["a", "b"])))
    message = refusal(run_evaluate, tmp_path, test=path, validation=path)
    assert "cnn.keras: its input is [28, 28, 1], not [8, 8, 3]; " in message


def test_validation_images_of_other_classes_are_refused(run_evaluate, prepared, tmp_path, refusal):
    images, labels, _ = load(prepared / "validation.npz")
    path = tmp_path / "validation.npz"
    save(path, Data(images, labels, np.array(list("abcdefghij"))))

    message = refusal(run_evaluate, tmp_path, validation=path)

    assert message.startswith(f"{path}: has ")


def test_small_classes_and_names_that_no_font_shows_get_a_note_each(
    run_evaluate, prepared, trained, tmp_path, capsys, monkeypatch
):
    """The ten digits under Japanese names; of the last one three test images."""
    names = np.array(list("零一二三四五六七八九"))
    paths = {}
    for split in ("test", "validation"):
        images, labels, _ = load(prepared / f"{split}.npz")
        kept = np.flatnonzero(labels != 9).tolist() + np.flatnonzero(labels == 9)[:3].tolist()
        paths[split] = tmp_path / f"{split}.npz"
        save(paths[split], Data(images[kept], labels[kept], names))
    monkeypatch.setattr(fonts, "_found", lambda packages: [])

    with warnings.catch_warnings(record=True) as caught:
        run_evaluate(tmp_path, **paths)

    small, unseen = capsys.readouterr().err.splitlines()
    assert small.startswith(f"note: {paths['test']}: ")
    assert "classes have fewer than 20 test images (" in small
    assert "九 3" in small
    assert unseen.startswith("note: no font here has 一七三")
    assert unseen.endswith("; then run 'dvc repro --force evaluate'")
    assert not [each for each in caught if "Glyph" in str(each.message)]


def one_nan(arrays):
    broken = [array.copy() for array in arrays]
    broken[2][0, 0, 0, 0] = np.nan
    return broken


def too_large(arrays):
    return [np.full_like(array, 1e38) for array in arrays]


@pytest.mark.parametrize("engine", ["exact", "keras"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        # A maximum and a ReLU make 0 of NaN, and probabilities look well then.
        (one_nan, "its layer convolution_2 has weights that are not finite; "),
        (too_large, f"gives values that are no probabilities; {FORCE}"),
    ],
)
def test_a_model_of_broken_weights_is_refused(
    prepared, trained, tmp_path, refusal, tf, engine, change, problem
):
    network, arrays = archive.read(trained / "cnn.keras")[:2]
    adam = Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, [])
    path = tmp_path / "cnn.keras"
    archive.write(path, network, change(arrays), adam)

    message = refusal(evaluate.predict, load(prepared / "test.npz"), path, engine)

    assert message.startswith(f"{path}: {problem}")
    assert "run 'dvc repro" in message


@pytest.mark.parametrize(
    ("shape", "classes", "problem"),
    [
        ((28, 28, 1), 2, "gives values that are no probabilities"),
        ((28, 28, 1), 11, "gives values that are no probabilities"),
        ((8, 8, 3), 10, "does not take images of [8, 8, 3]"),
    ],
)
def test_of_the_engine_keras_too_a_model_of_other_data_is_refused(
    trained, refusal, tf, shape, classes, problem
):
    names = np.arange(classes).astype(str)
    given = Data(np.zeros((4, *shape), np.float32), np.arange(4) % 2, names)

    message = refusal(evaluate.predict, given, trained / "cnn.keras", "keras")

    assert message == f"{trained}/cnn.keras: {problem}; {FORCE}"


@pytest.mark.parametrize("engine", ["exact", "keras"])
@pytest.mark.parametrize("damage", ["a bit", "half", "all"])
def test_a_damaged_model_is_refused_with_what_to_do(
    prepared, trained, tmp_path, refusal, tf, engine, damage
):
    content = bytearray((trained / "cnn.keras").read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    path = tmp_path / "cnn.keras"
    path.write_bytes({"a bit": content, "half": content[:middle], "all": b""}[damage])

    message = refusal(evaluate.predict, load(prepared / "test.npz"), path, engine)

    assert message.startswith(f"{path}: ")
    assert message.endswith(f"; {REPAIR}")


def test_a_missing_model_is_named_by_the_engine_keras_too(prepared, tmp_path, refusal, tf):
    message = refusal(evaluate.predict, load(prepared / "test.npz"), tmp_path / "cnn", "keras")

    assert message == f"{tmp_path}/cnn: is missing; run 'make repro'"


def test_the_engine_is_the_one_of_params_yaml_or_refused(run_evaluate, tiny, tmp_path, refusal):
    path = tmp_path / "params.yaml"
    train = {"engine": "torch", "epochs": "not looked at"}
    path.write_text(yaml.safe_dump(tiny | {"train": train}))

    message = refusal(run_evaluate, tmp_path, params=path)

    assert message.startswith(
        f"{path}: train.engine is 'torch'; allowed: exact or keras; correct it"
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [("test", "dvc"), ("validation", "dvc"), ("model", "make"), ("history", "dvc")],
)
def test_a_missing_input_is_named_and_nothing_is_written(
    run_evaluate, tmp_path, refusal, name, command
):
    path = tmp_path / "missing"

    message = refusal(run_evaluate, tmp_path, **{name: path})

    assert message == f"{path}: is missing; run '{command} repro'"
    assert list(tmp_path.iterdir()) == []


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

    message = refusal(tables.read_history, path)

    assert message.startswith(f"{path}: ")
    assert message.endswith(REPAIR)
