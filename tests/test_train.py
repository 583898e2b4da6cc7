"""The stage trains a model that is to the byte the same whenever the seed is, or stops cleanly."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnn import archive, engine, runtime
from cnn.data import Data, load, save
from cnn.errors import run
from cnn.params import load as load_params
from cnn.runtime import keras
from stages import train
from stages.evaluate import read_history
from tests.clones import environment

ROOT = Path(__file__).parent.parent
FORM = (28, 28, 1), 10
WRITTEN = {"model": "cnn.keras", "history": "training.csv", "environment": "environment.json"}


@pytest.fixture
def tiny_params(tiny_yaml):
    return load_params(tiny_yaml, "train", train.TrainParams)


@pytest.fixture
def write_params(tiny, tmp_path):
    """Write params.yaml with some values of its section `train` changed; return its path."""

    def call(**changed) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump({"train": tiny["train"] | changed}))
        return path

    return call


def flags(params_yaml: Path, training: Path, validation: Path, folder: Path) -> list[str]:
    return [
        f"--params={params_yaml}",
        f"--train={training}",
        f"--validation={validation}",
        *(f"--{name}={folder / file}" for name, file in WRITTEN.items()),
    ]


def probabilities(folder: Path, split: Data) -> np.ndarray:
    return archive.load(folder / "cnn.keras", *FORM).predict(split.images, verbose=0)


def test_the_model_learns_the_digits(trained, prepared, tf):
    test = load(prepared / "test.npz")

    predicted = probabilities(trained, test).argmax(axis=1)

    assert (predicted == test.labels).mean() > 0.3  # chance is 0.1; one epoch of them is little


def test_the_history_has_a_row_an_epoch(run_train, write_params, prepared, tmp_path, capsys):
    changed = {"epochs": 3, "learning_rate": 0.004, "warmup_share": 0.25, "final_share": 0.0}

    run_train(write_params(**changed), tmp_path)

    with open(tmp_path / "training.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [
        "epoch",
        "accuracy",
        "loss",
        "validation_accuracy",
        "validation_loss",
        "learning_rate",
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    # Batches of 32 make 15 steps an epoch: 11 of 45 warm up; an epoch ends with 14, 29, 44.
    assert len(load(prepared / "train.npz").labels) // 32 + 1 == 15
    falling = [0.004 * 0.5 * (1 + np.cos(np.pi * (step - 11) / 34)) for step in (14, 29, 44)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(falling, rel=1e-4)
    progress = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in progress] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_the_history_is_whole_after_each_epoch(tf, tiny_params, prepared):
    tensors = tuple(engine.in_tensorflow(part[:64]) for part in load(prepared / "train.npz")[:2])
    params = tiny_params.model_copy(update={"epochs": 3})
    kept = []

    train.train(params, tensors, tensors, 10, lambda history: kept.append(list(history)))

    assert [[row["epoch"] for row in history] for history in kept] == [[1], [1, 2], [1, 2, 3]]


def test_validation_is_that_of_the_finished_epoch(trained, prepared, tf):
    validation = load(prepared / "validation.npz")
    found, labels = probabilities(trained, validation), validation.labels

    with open(trained / "training.csv", newline="") as stream:
        row = list(csv.DictReader(stream))[-1]

    assert float(row["validation_accuracy"]) == pytest.approx(
        (found.argmax(axis=1) == labels).mean(), rel=1e-5
    )
    loss = -np.log(found[np.arange(len(labels)), labels]).mean()
    assert float(row["validation_loss"]) == pytest.approx(loss, rel=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    run_train, write_params, tiny_yaml, trained, tmp_path
):
    again = run_train(tiny_yaml, tmp_path / "again")
    other = run_train(write_params(seed=43), tmp_path / "other")

    for name in WRITTEN.values():
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    for name in ("cnn.keras", "training.csv"):
        assert (other / name).read_bytes() != (trained / name).read_bytes()


def test_the_environment_is_written_beside(trained):
    written = json.loads((trained / "environment.json").read_text())

    assert written == runtime.environment("avx2", "float32")


def test_all_that_a_recipe_may_turn_on_trains_a_model_that_gives_float32_probabilities(
    write_params, tmp_path, prepared, tf
):
    """In a process of its own: oneDNN reads its cap once, and here it is capped already."""
    moves = {"shift": 2.0, "rotation": 10.0, "shear": 0.2, "scale": 0.1}
    changed = {"dropout": 0.3, "weight_decay": 0.1, "averaging": 0.9}
    changed |= {"precision": "mixed_bfloat16", "instruction_set": "native", "shards": 2}

    splits = prepared / "train.npz", prepared / "validation.npz"
    words = flags(write_params(**changed, **moves), *splits, tmp_path)
    uncapped = environment(tmp_path / "clone")
    subprocess.run(
        [sys.executable, "-m", "stages.train", *words], cwd=ROOT, env=uncapped, check=True
    )

    network = archive.load(tmp_path / "cnn.keras", *FORM)
    assert network.get_layer("convolution_1").compute_dtype == "float32"  # it is loaded anywhere
    assert network.get_layer("dropout").rate == 0.3
    found = network.predict(load(prepared / "test.npz").images, verbose=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written["precision"] == "mixed_bfloat16"
    assert (written["oneDNN"], written["instruction set cap"]) == ("1", "none")


def test_bfloat16_is_refused_before_tensorflow_is_imported_where_every_cpu_must_compute_alike(
    write_params, prepared, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runtime, "import_module", None)  # what brings TensorFlow and Keras
    splits = prepared / "train.npz", prepared / "validation.npz"
    params_yaml = write_params(precision="mixed_bfloat16")

    assert run(lambda: train.main(flags(params_yaml, *splits, tmp_path))) == 1

    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {params_yaml}: train.precision is mixed_bfloat16, ")
    assert "set train.instruction_set to native, or precision to float32" in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == [params_yaml]


def test_with_averaging_the_average_becomes_the_model(tf, tiny_params, prepared):
    """The last step of two is shared evenly with the first: (first + second) / 2."""
    training = load(prepared / "train.npz")
    tensors = tuple(engine.in_tensorflow(part[:64]) for part in training[:2])

    def weights(averaging: float, epochs: int) -> np.ndarray:
        keras.utils.set_random_seed(1)
        changed = {"epochs": epochs, "schedule": "constant", "averaging": averaging}
        params = tiny_params.model_copy(update={"batch_size": 64, "shards": 1, **changed})
        network = train.train(params, tensors, tensors, 10, lambda history: None)
        return network.get_weights()[0]

    expected = (weights(0.0, 1) + weights(0.0, 2)) / 2
    np.testing.assert_allclose(weights(0.5, 2), expected, atol=1e-6)


def test_images_in_colour_of_three_classes_are_trained(tiny_yaml, prepared, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.random((60, 9, 12, 3), np.float32) / 2
    images[np.arange(60), :, :, labels] += 0.5
    path = tmp_path / "set.npz"
    save(path, Data(images, labels, np.array(["red", "green", "blue"])))

    train.main(flags(tiny_yaml, path, path, tmp_path))

    network = archive.load(tmp_path / "cnn.keras", (9, 12, 3), 3)
    assert network.input_shape == (None, 9, 12, 3)


def test_a_loss_that_is_not_finite_stops_with_epoch_and_learning_rate(
    tf, tiny_params, prepared, refusal
):
    # params.yaml does not allow such a rate; it is infinite in float32, and so is the first step.
    params = tiny_params.model_copy(update={"learning_rate": 1e39, "schedule": "constant"})
    validation = load(prepared / "validation.npz")
    tensors = tuple(engine.in_tensorflow(part) for part in validation[:2])

    message = refusal(train.train, params, tensors, tensors, 10, lambda history: None)

    assert message == (
        "the loss is nan in epoch 1 at learning rate 1e+39; "
        "lower train.learning_rate in params.yaml and run 'dvc repro'"
    )


def test_images_of_another_form_are_refused(tiny_yaml, prepared, tmp_path, refusal):
    path = tmp_path / "odd.npz"
    np.savez(path, images=np.zeros((3, 8, 8)), labels=np.arange(3), classes=["a", "b", "c"])

    message = refusal(train.main, flags(tiny_yaml, path, path, tmp_path))

    assert message.startswith(f"{path}: images are float64 (3, 8, 8)")


def test_training_and_validation_that_do_not_fit_are_refused(
    tiny_yaml, prepared, tmp_path, refusal
):
    path = tmp_path / "validation.npz"
    images, labels, classes = load(prepared / "validation.npz")
    save(path, Data(images, labels, classes[::-1]))

    message = refusal(train.main, flags(tiny_yaml, prepared / "train.npz", path, tmp_path))

    assert message.startswith(f"{path}: ")
    assert message.endswith("run 'dvc repro'")
    assert sorted(tmp_path.iterdir()) == [path]


def test_ctrl_c_ends_a_training_with_one_line_and_nothing_half_written(
    write_params, prepared, tmp_path
):
    folder = tmp_path / "written"
    # A shell without job control lets what it starts in the background ignore Ctrl-C.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "runpy.run_module('stages.train', run_name='__main__', alter_sys=True)"
    splits = prepared / "train.npz", prepared / "validation.npz"
    with subprocess.Popen(
        [sys.executable, "-c", start, *flags(write_params(epochs=1000), *splits, folder)],
        cwd=ROOT,
        env=environment(tmp_path / "clone"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert any(line.startswith("epoch 1/1000  ") for line in lines)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 130
    assert errors == "interrupted: what was not finished is not written\n"
    assert "epoch 1000/1000" not in output
    assert {".cnn.keras.resume", "training.csv"} <= {file.name for file in folder.iterdir()}
    assert not {"cnn.keras", "environment.json"} & {file.name for file in folder.iterdir()}
    rows = read_history(folder / "training.csv")  # whole, up to the last epoch that was finished
    assert rows["epoch"].tolist() == list(range(1, len(rows) + 1))
