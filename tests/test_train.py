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

from cnn import kernels
from cnn.base.errors import UserError
from cnn.base.params import load as load_params
from cnn.base.program import run
from cnn.data.sets import Data, load, save
from cnn.model import archive, keras_runtime
from cnn.results.tables import read_history
from cnn.training import fingerprint
from cnn.training.checkpoint import checkpoint_path
from stages import train
from stages.evaluate import predict
from tests.helpers.clones import environment
from tests.helpers.late import keras

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


@pytest.fixture
def refused_before_tensorflow(monkeypatch, capsys):
    """Call the stage, which must refuse in one line without TensorFlow; return the line."""
    monkeypatch.setattr(keras_runtime, "import_module", None)  # what brings TensorFlow and Keras

    def call(words: list[str]) -> str:
        assert run(lambda: train.main(words)) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        return printed.err.removeprefix("error: ").removesuffix("\n")

    return call


def flags(params_yaml: Path, training: Path, validation: Path, folder: Path) -> list[str]:
    return [
        f"--params={params_yaml}",
        f"--train={training}",
        f"--validation={validation}",
        *(f"--{name}={folder / file}" for name, file in WRITTEN.items()),
    ]


def splits(prepared: Path) -> tuple[Path, Path]:
    return prepared / "train.npz", prepared / "validation.npz"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "training.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def assert_last_row(folder: Path, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Hold the last row of the history against what the model gives for the validation images."""
    row = rows_of(folder)[-1]
    accuracy = (probabilities.argmax(axis=1) == labels).mean()
    assert float(row["validation_accuracy"]) == pytest.approx(accuracy, rel=1e-5)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert float(row["validation_loss"]) == pytest.approx(loss, rel=1e-4)


def test_the_model_learns_the_digits(trained, prepared):
    test = load(prepared / "test.npz")

    predicted = predict(test, trained / "cnn.keras", "exact").argmax(axis=1)

    assert (predicted == test.labels).mean() > 0.3  # chance is 0.1; one epoch of them is little


def test_the_history_has_a_row_per_epoch(run_train, write_params, prepared, tmp_path, capsys):
    changed = {"epochs": 3, "learning_rate": 0.004, "warmup_share": 0.25, "final_share": 0.0}

    run_train(write_params(**changed), tmp_path)

    rows = rows_of(tmp_path)
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
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_validation_is_that_of_the_finished_epoch(trained, prepared):
    validation = load(prepared / "validation.npz")

    found = predict(validation, trained / "cnn.keras", "exact")

    assert_last_row(trained, found, validation.labels)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    run_train, write_params, tiny_yaml, trained, tmp_path
):
    again = run_train(tiny_yaml, tmp_path / "again")
    other = run_train(write_params(seed=43), tmp_path / "other")

    for name in WRITTEN.values():
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    for name in ("cnn.keras", "training.csv"):
        assert (other / name).read_bytes() != (trained / name).read_bytes()


def test_the_environment_is_written(trained):
    written = json.loads((trained / "environment.json").read_text())

    assert written == fingerprint.environment("exact")


def test_an_exact_training_imports_no_tensorflow(trained, tiny_yaml, prepared, tmp_path):
    program = """if True:
        import sys
        from stages import train
        train.main()
        print(sorted({"tensorflow", "keras", "jax", "torch"} & set(sys.modules)))
    """

    done = subprocess.run(
        [sys.executable, "-c", program, *flags(tiny_yaml, *splits(prepared), tmp_path)],
        cwd=ROOT, env=environment(tmp_path / "clone"), capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
    for name in WRITTEN.values():  # another process, the same bytes
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_all_that_a_recipe_may_turn_on_trains_a_model_that_gives_probabilities(
    write_params, tmp_path, prepared
):
    moves = {"shift": 0.1, "rotation": 10.0, "shear": 0.2, "scale": 0.1, "fill": 0.5}
    changed = {"dropout": 0.3, "weight_decay": 0.1, "averaging": 0.9, "shards": 8}
    form = {"filters": [4, 6, 8], "kernel_size": 2, "dense_units": [16, 12, 8]}

    train.main(flags(write_params(**changed, **moves, **form), *splits(prepared), tmp_path))

    read = archive.read(tmp_path / "cnn.keras", *FORM)
    assert read.network[1:6] == ((4, 6, 8), 2, "valid", (16, 12, 8), 0.3)
    validation = load(prepared / "validation.npz")
    found = kernels.probabilities(*read, validation.images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert_last_row(tmp_path, found, validation.labels)


def test_keras_trains_and_writes_a_model_that_keras_loads(
    tf, write_params, tmp_path, prepared, capsys
):
    precision = "mixed_bfloat16"
    changed = {"engine": "keras", "precision": precision, "dropout": 0.3, "epochs": 2}

    train.main(flags(write_params(**changed), *splits(prepared), tmp_path))

    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [*WRITTEN.values(), "params.yaml"]
    )
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0])[-1] == "learning_rate"
    assert "epoch 1/2  " in capsys.readouterr().out
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written == fingerprint.environment("keras", precision)
    assert (written["engine"], written["precision"]) == ("keras", precision)
    validation = load(prepared / "validation.npz")
    found = predict(validation, tmp_path / "cnn.keras", "keras")
    assert_last_row(tmp_path, found, validation.labels)
    loaded = keras.models.load_model(tmp_path / "cnn.keras")  # and goes on with it
    assert int(loaded.optimizer.iterations) == 30
    assert loaded.get_layer("convolution_1").compute_dtype == "bfloat16"


def test_a_model_of_keras_that_is_half_written_is_not_left_behind(
    tf, write_params, tmp_path, prepared, monkeypatch
):
    class Half:
        def save(self, path):
            path.write_text("half of it")
            raise KeyboardInterrupt

    monkeypatch.setattr("cnn.training.keras_engine.fit", lambda *_: Half())
    words = flags(write_params(engine="keras"), *splits(prepared), tmp_path / "written")

    assert run(lambda: train.main(words)) == 130

    assert list((tmp_path / "written").iterdir()) == []


# What is refused


def test_bfloat16_is_refused_where_the_engine_does_not_compute_it(
    write_params, prepared, tmp_path, refused_before_tensorflow
):
    params_yaml = write_params(precision="mixed_bfloat16")

    message = refused_before_tensorflow(flags(params_yaml, *splits(prepared), tmp_path))

    assert message.startswith(f"{params_yaml}: train.precision is mixed_bfloat16, ")
    assert "set train.engine to keras, or train.precision to float32" in message
    assert list(tmp_path.iterdir()) == [params_yaml]


def test_a_bad_value_is_refused_before_tensorflow_is_imported(
    write_params, prepared, tmp_path, refused_before_tensorflow
):
    params_yaml = write_params(engine="keras", filters=[], learning_rate=0)

    message = refused_before_tensorflow(flags(params_yaml, *splits(prepared), tmp_path))

    assert message.startswith(f"{params_yaml}: ")
    assert "train.filters is []; allowed: " in message
    assert "train.learning_rate is 0; allowed: " in message


def test_more_convolutions_than_the_images_bear_are_refused(
    write_params, tmp_path, refused_before_tensorflow
):
    small = Data(np.zeros((4, 8, 8, 1), np.float32), np.arange(4) % 2, np.array(["a", "b"]))
    save(tmp_path / "small.npz", small)
    params_yaml = write_params(engine="keras", filters=[4, 4, 4, 4])

    message = refused_before_tensorflow(
        flags(params_yaml, tmp_path / "small.npz", tmp_path / "small.npz", tmp_path)
    )

    assert message.startswith(f"{params_yaml}: train.filters has 4 convolutions, ")
    assert "images of 8 x 8 pixels bear 3; shorten it in params.yaml" in message


def test_several_workers_are_refused_where_keras_trains(
    write_params, prepared, tmp_path, refused_before_tensorflow, monkeypatch
):
    cluster = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    words = flags(write_params(engine="keras"), *splits(prepared), tmp_path)

    message = refused_before_tensorflow(words)

    assert message.startswith("TF_CONFIG names 2 workers, which the engine keras does not share")
    assert "unset it, or set train.engine to exact" in message


def test_kernels_that_cannot_be_loaded_are_refused_before_anything_is_started(
    tiny_yaml, prepared, tmp_path, refused_before_tensorflow, monkeypatch
):
    def load():
        raise UserError("the kernels are not built")

    monkeypatch.setattr(kernels, "load", load)
    monkeypatch.setattr(train.workers, "meet", None)

    message = refused_before_tensorflow(flags(tiny_yaml, *splits(prepared), tmp_path))

    assert message == "the kernels are not built"
    assert list(tmp_path.iterdir()) == []


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


# Other images, and other ends


def test_images_in_colour_of_three_classes_are_trained(write_params, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.random((60, 9, 12, 3), np.float32) / 2
    images[np.arange(60), :, :, labels] += 0.5
    path = tmp_path / "set.npz"
    save(path, Data(images, labels, np.array(["red", "green", "blue"])))

    train.main(flags(write_params(), path, path, tmp_path))

    network = archive.read(tmp_path / "cnn.keras", (9, 12, 3), 3).network
    assert (network.image_shape, network.padding, network.classes) == ((9, 12, 3), "same", 3)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_training_that_leaves_the_finite_numbers_writes_no_model(
    tiny_params, prepared, tmp_path, monkeypatch, capsys
):
    # params.yaml does not allow such a rate; it is infinite in float32, and so is the first step.
    wild = tiny_params.model_copy(update={"learning_rate": 1e39, "schedule": "constant"})
    monkeypatch.setattr(train, "load", lambda *_: wild)

    assert run(lambda: train.main(flags(tmp_path, *splits(prepared), tmp_path))) == 1

    assert capsys.readouterr().err == (
        "error: the weights are no longer finite in epoch 1; "
        "lower train.learning_rate in params.yaml and run 'dvc repro'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sent", "code", "word"),
    [
        ("exact", "SIGINT", 130, "interrupted"),
        ("exact", "SIGTERM", 143, "terminated"),
        ("keras", "SIGINT", 130, "interrupted"),
    ],
)
def test_a_signal_ends_a_training_with_one_line_and_nothing_half_written(
    write_params, prepared, tmp_path, name, sent, code, word
):
    folder = tmp_path / "written"
    # A shell without job control lets what it starts in the background ignore Ctrl-C.
    start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "runpy.run_module('stages.train', run_name='__main__', alter_sys=True)"
    params_yaml = write_params(epochs=1000, engine=name, rotation=10.0)
    with subprocess.Popen(
        [sys.executable, "-c", start, *flags(params_yaml, *splits(prepared), folder)],
        cwd=ROOT,
        env=environment(tmp_path / "clone"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert any(line.startswith("epoch 1/1000  ") for line in lines)
            process.send_signal(getattr(signal, sent))
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == code, errors
    assert errors == f"{word}: what was not finished is not written\n"
    assert "epoch 1000/1000" not in output
    state = [checkpoint_path(folder / "cnn.keras")] if name == "exact" else []
    assert sorted(folder.iterdir()) == [*state, folder / "training.csv"]
    rows = read_history(folder / "training.csv")  # whole, up to the last epoch that was finished
    assert rows["epoch"].tolist() == list(range(1, len(rows) + 1))
