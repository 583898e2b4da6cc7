"""The compiled epoch does what plain steps do; the same seed gives the same bytes."""

import csv
import json
import zipfile

import numpy as np
import pytest
import yaml

from stages import model, train
from stages.dataset import load as load_images
from stages.dataset import write_arrays
from stages.params import load


@pytest.fixture
def digits(prepared):
    """150 images: with batches of 64 the last one holds 22."""
    images, labels = load_images(prepared / "train.npz")
    return images[:150], labels[:150]


@pytest.fixture
def tiny_params(tiny_yaml):
    return load(tiny_yaml, "train", train.TrainParams)


@pytest.fixture
def network(tf):
    """Build a small network, always with the same weights, compiled with an optimizer."""

    def call(optimizer):
        import keras

        keras.utils.set_random_seed(5)
        built = model.build((4, 8), 3, 16, 0.0)
        loss = keras.losses.SparseCategoricalCrossentropy()
        built.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
        return built

    return call


def of_64(params):
    return params.model_copy(update={"batch_size": 64})


def plain_epoch(network, images, labels, order, batch_size):
    """Train one epoch as Keras does it, a step at a time."""
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        network.train_on_batch(images[batch], labels[batch])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.7, "beta_2": 0.9},
        {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.9},
    ],
    ids=["default", "betas", "decay and average"],
)
def test_an_epoch_is_the_same_steps_as_keras_takes(tf, digits, network, tiny_params, settings):
    import keras

    images, labels = digits
    # With Adam's usual epsilon a gradient that is nothing but rounding makes a step of full size.
    settings = {"learning_rate": 0.01, "epsilon": 1e-3} | settings
    ours, theirs = (network(keras.optimizers.Adam(**settings)) for _ in range(2))
    epoch = train.compiled_epoch(ours, images, labels, of_64(tiny_params))
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(len(images))
        epoch(order)
        plain_epoch(theirs, images, labels, order, batch_size=64)

    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # among them the averages
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 6


def test_an_epoch_sees_every_image_once_with_the_short_last_batch(tf, digits, network, tiny_params):
    import keras

    images, labels = digits
    still = network(keras.optimizers.Adam(0.0))  # the weights stay, so the mean is over one network
    loss, accuracy = train.compiled_epoch(still, images, labels, of_64(tiny_params))(
        np.random.default_rng(3).permutation(len(images))
    )

    probabilities = np.asarray(still(images))
    expected = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(accuracy) == pytest.approx((probabilities.argmax(axis=1) == labels).mean())


def test_an_epoch_counts_an_image_as_often_as_the_order_names_it(tf, digits, network, tiny_params):
    import keras

    images, labels = digits
    still = network(keras.optimizers.Adam(0.0))
    epoch = train.compiled_epoch(still, images, labels, of_64(tiny_params))

    loss, _ = epoch(np.zeros(len(images), np.int64))

    expected = -np.log(np.asarray(still(images[:1]))[0, labels[0]])
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 150, 8192])
def test_any_batch_size_makes_an_epoch(tf, digits, network, tiny_params, batch_size):
    import keras

    images, labels = (array[:40] for array in digits)
    built = network(keras.optimizers.Adam(0.0))

    params = tiny_params.model_copy(update={"batch_size": batch_size})
    train.compiled_epoch(built, images, labels, params)(np.arange(40))

    assert int(built.optimizer.iterations) == -(-40 // batch_size)


def test_validation_is_what_keras_evaluates(tf, digits, network, monkeypatch):
    import keras

    images, labels = digits
    built = network(keras.optimizers.Adam())
    monkeypatch.setattr(train, "VALIDATION_BATCH", 64)  # the last one holds 22

    validate = train.compiled_validation(built, *(train.in_tensorflow(part) for part in digits))
    before = [float(value) for value in validate()]
    built.train_on_batch(images, labels)

    theirs = built.evaluate(images, labels, verbose=0)
    assert [float(value) for value in validate()] == pytest.approx(theirs, abs=1e-6)
    assert before != pytest.approx(theirs, abs=1e-6)  # of the network as it stands, not as it stood


def test_cosine_warms_up_to_the_peak_and_falls_to_the_final_share(tf, tiny_params):
    params = tiny_params.model_copy(
        update={"learning_rate": 0.002, "warmup_share": 0.2, "final_share": 0.05}
    )

    schedule = train.learning_rate_schedule(params, steps=100)

    at = {step: float(schedule(step)) for step in (0, 10, 20, 40, 60, 100)}
    assert at == pytest.approx(
        {
            0: 0.0001,  # a twentieth of the peak, since 0 would waste the step
            10: 0.00105,  # halfway from there to the peak
            20: 0.002,
            40: 0.002 * (0.05 + 0.95 * 0.5 * (1 + 2**-0.5)),  # a quarter of the way down
            60: 0.002 * 0.525,  # half of the way down
            100: 0.0001,
        },
        rel=1e-5,
    )


def test_without_warm_up_cosine_starts_at_the_peak(tf, tiny_params):
    params = tiny_params.model_copy(update={"warmup_share": 0, "final_share": 0})

    schedule = train.learning_rate_schedule(params, steps=10)

    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(5)) == pytest.approx(0.005)
    assert float(schedule(10)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_training_of_one_step_has_a_learning_rate(tf, tiny_params, share):
    params = tiny_params.model_copy(update={"warmup_share": share})

    assert float(train.learning_rate_schedule(params, steps=1)(0)) == pytest.approx(0.01)


def test_a_constant_schedule_is_the_learning_rate(tiny_params):
    params = tiny_params.model_copy(update={"schedule": "constant"})

    assert train.learning_rate_schedule(params, steps=100) == 0.01


def test_the_model_learns_the_digits(trained, prepared, tf):
    images, labels = load_images(prepared / "test.npz")

    predicted = model.load(trained / "cnn.keras").predict(images, verbose=0).argmax(axis=1)

    assert (predicted == labels).mean() > 0.3  # chance is 0.1; one epoch of 450 images is little


def test_the_history_has_a_row_an_epoch(run_train, tiny, tmp_path, capsys):
    changed = {"epochs": 3, "learning_rate": 0.004, "warmup_share": 0.25, "final_share": 0.0}
    write_params(tmp_path / "params.yaml", tiny, changed)

    run_train(tmp_path / "params.yaml", tmp_path)

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
    # 450 images in batches of 32 are 15 steps: 11 of 45 warm up; an epoch ends with 14, 29, 44.
    falling = [0.004 * 0.5 * (1 + np.cos(np.pi * (step - 11) / 34)) for step in (14, 29, 44)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(falling, rel=1e-4)
    progress = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in progress] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_validation_is_that_of_the_finished_epoch(trained, prepared, tf):
    images, labels = load_images(prepared / "validation.npz")
    probabilities = model.load(trained / "cnn.keras").predict(images, verbose=0)

    with open(trained / "training.csv", newline="") as stream:
        row = list(csv.DictReader(stream))[-1]

    assert float(row["validation_accuracy"]) == pytest.approx(
        (probabilities.argmax(axis=1) == labels).mean(), rel=1e-5
    )
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert float(row["validation_loss"]) == pytest.approx(loss, rel=1e-4)


def write_params(path, tiny, changed):
    path.write_text(yaml.safe_dump({"train": tiny["train"] | changed}))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    run_train, tiny, tiny_yaml, trained, tmp_path
):
    write_params(tmp_path / "params.yaml", tiny, {"seed": 43})
    again = run_train(tiny_yaml, tmp_path / "again")
    other = run_train(tmp_path / "params.yaml", tmp_path / "other")

    for name in ("cnn.keras", "training.csv"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
        assert (other / name).read_bytes() != (trained / name).read_bytes()


def test_the_environment_is_written_beside(trained):
    environment = json.loads((trained / "environment.json").read_text())

    assert environment["threads"] == "2"
    assert environment["precision"] == "float32"


def test_bfloat16_and_dropout_train_a_model_that_gives_float32_probabilities(
    run_train, tiny, tmp_path, prepared, tf
):
    write_params(tmp_path / "params.yaml", tiny, {"precision": "mixed_bfloat16", "dropout": 0.3})

    run_train(tmp_path / "params.yaml", tmp_path)

    network = model.load(tmp_path / "cnn.keras")
    assert network.get_layer("convolution_1").compute_dtype == "bfloat16"
    assert network.get_layer("dropout").rate == 0.3
    probabilities = network.predict(load_images(prepared / "test.npz")[0], verbose=0)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_epoch_and_learning_rate(
    tf, tiny_params, digits, refusal
):
    # params.yaml does not allow such a rate; it is infinite in float32, and so is the first step.
    params = tiny_params.model_copy(update={"learning_rate": 1e39, "schedule": "constant"})

    tensors = tuple(train.in_tensorflow(part) for part in digits)

    message = refusal(train.train, params, tensors, tensors)

    assert message == (
        "the loss is nan in epoch 1 at learning rate 1e+39; "
        "lower train.learning_rate in params.yaml"
    )


def test_images_of_another_form_are_refused(run_train, tiny_yaml, tmp_path, refusal):
    path = tmp_path / "odd.npz"
    write_arrays(path, compressed=False, images=np.zeros((3, 8, 8)), labels=np.arange(3))
    others = [f"--{name}={tmp_path / name}" for name in ("model", "history", "environment")]

    message = refusal(
        train.main,
        [f"--params={tiny_yaml}", f"--train={path}", f"--validation={path}", *others],
    )

    assert message.startswith(f"{path}: images are float64 (3, 8, 8)")


def test_the_model_file_is_whole(trained):
    with zipfile.ZipFile(trained / "cnn.keras") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
