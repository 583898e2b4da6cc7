"""Keras' own engine: the same layers, compiled and fitted; and the kernels' steps are Keras'."""

import math

import numpy as np
import pytest

from cnn import engine, model, runtime
from cnn.data import Data
from cnn.kernels import Recipe, load, probabilities, take_apart
from cnn.network import network_of
from cnn.params import load as load_params
from cnn.runtime import keras
from stages.train import TrainParams

MNIST = (28, 28, 1)
EPSILON = 1e-3  # with Adam's usual one a gradient that is nothing but rounding makes a full step
MEND = "lower train.learning_rate in params.yaml and run 'dvc repro'"


@pytest.fixture(autouse=True)
def started(tf):
    """Keras' state is that of a training stage."""


@pytest.fixture
def section(tiny_yaml):
    """Return section `train` with some values changed, none of which is checked."""
    whole = load_params(tiny_yaml, "train", TrainParams)
    return lambda **changed: whole.model_copy(update=changed)


@pytest.fixture
def data(digits) -> Data:
    return Data(*digits, np.array([*"0123456789"]))


def usual(**changed):
    form = {"filters": (32, 64), "kernel_size": 3, "dense_units": (128,), "dropout": 0.0}
    return network_of(**(form | {"image_shape": MNIST, "classes": 10} | changed))


# What is built


def test_the_defaults_have_225034_parameters(pytestconfig):
    default = load_params(pytestconfig.rootpath / "params.yaml", "train", TrainParams)

    assert model.build(default.network(MNIST, 10)).count_params() == 225_034


def test_the_layers_are_the_seven_of_the_seed_in_their_order():
    built = model.build(usual())

    assert [(type(layer).__name__, layer.name) for layer in built.layers] == [
        ("Conv2D", "convolution_1"),
        ("MaxPooling2D", "pooling_1"),
        ("Conv2D", "convolution_2"),
        ("MaxPooling2D", "pooling_2"),
        ("Flatten", "flatten"),
        ("Dense", "dense"),
        ("Dense", "probabilities"),
    ]
    activations = [getattr(layer, "activation", None) for layer in built.layers]
    assert [function.__name__ for function in activations if function] == [
        "relu",
        "relu",
        "relu",
        "softmax",
    ]
    assert (built.input_shape, built.output_shape) == ((None, 28, 28, 1), (None, 10))


def test_dropout_stands_between_flatten_and_dense():
    built = model.build(usual(dropout=0.3))

    assert [layer.name for layer in built.layers[-4:-1]] == ["flatten", "dropout", "dense"]
    assert built.get_layer("dropout").rate == 0.3


@pytest.mark.parametrize(
    "form",
    [
        {"filters": (4,), "dense_units": ()},
        {"filters": (4, 5, 6), "dense_units": (7, 8, 9)},
        {"filters": (2, 3, 4, 5, 6, 7), "image_shape": (64, 70, 3), "classes": 3},
        {"image_shape": (8, 8, 1), "kernel_size": 5, "classes": 2},
        {"image_shape": (9, 9, 1), "classes": 2},
        {"image_shape": (8, 256, 3), "kernel_size": 1, "classes": 100},
    ],
    ids=["least", "hidden layers", "most", "padded", "just padded", "wide"],
)
def test_a_network_of_any_form_is_built_as_it_says(form):
    network = usual(**form)

    built = model.build(network)

    assert [layer.name for layer in built.layers if layer.weights] == network.weighted()
    assert [weight.shape for weight in built.weights] == network.shapes()
    pooled = [layer.output.shape[1:] for layer in built.layers if layer.name.startswith("pooling")]
    assert pooled == network.outputs()[1:]
    found = np.asarray(built(np.zeros((2, *network.image_shape), np.float32)))
    assert found.shape == (2, network.classes)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


# How it is compiled


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"schedule": "constant"},
        {"warmup_share": 0.0, "final_share": 0.0},
        {"warmup_share": 0.999},
        {"learning_rate": 1.0, "warmup_share": 0.5, "final_share": 1.0},
    ],
    ids=["default", "constant", "no warm-up", "all warm-up", "no fall"],
)
@pytest.mark.parametrize("steps", [1, 7, 300])
def test_keras_learning_rates_are_those_of_the_exact_engine(section, changed, steps):
    params, wanted = section(**changed), np.arange(steps)

    schedule = model.learning_rate_of(params, steps)

    theirs = [float(schedule(step)) if callable(schedule) else schedule for step in wanted]
    ours = engine.learning_rates(params, steps, wanted, load())
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7 * params.learning_rate)


def test_every_parameter_of_the_optimizer_reaches_it(section):
    built = model.build(usual(filters=(4,)))
    settings = {"beta_1": 0.7, "beta_2": 0.8, "weight_decay": 0.1, "averaging": 0.5}

    model.compile_for(built, section(schedule="constant", **settings), steps=10)

    adam = built.optimizer
    assert (adam.name, adam.beta_1, adam.beta_2, adam.weight_decay) == ("adam", 0.7, 0.8, 0.1)
    assert (adam.use_ema, adam.ema_momentum, adam.ema_overwrite_frequency) == (True, 0.5, None)
    assert float(adam.learning_rate) == pytest.approx(0.01)


def test_what_is_turned_off_is_off_in_keras_too(section):
    built = model.build(usual(filters=(4,)))

    model.compile_for(built, section(weight_decay=0.0, averaging=0.0), steps=10)

    assert (built.optimizer.weight_decay, built.optimizer.use_ema) == (None, False)


# The kernels' steps are Keras'


FORMS = {
    "usual": {},
    "decay and average": {"weight_decay": 0.1, "averaging": 0.9},
    "constant": {"schedule": "constant", "beta_1": 0.7, "beta_2": 0.9},
    "one layer": {"filters": (5,), "dense_units": ()},
    "deep": {"filters": (4, 5, 6), "kernel_size": 2, "dense_units": (9, 8)},
    "padded colours": {"image_shape": (9, 8, 3), "kernel_size": 5, "filters": (4, 6)},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_training_by_the_kernels_is_keras_own_from_the_same_weights_in_the_same_order(
    section, data, monkeypatch, name
):
    """Weights, what Adam keeps, the loss and the accuracy of each epoch, and what is predicted."""
    changed = {"batch_size": 25, "epochs": 2, "shards": 4} | FORMS[name]
    shape = changed.pop("image_shape", (14, 14, 1))
    if shape != (14, 14, 1):
        data = data._replace(images=np.random.default_rng(0).random((40, *shape), np.float32))
    params = section(**changed)
    network = params.network(shape, 10)
    recipe = engine.recipe_of
    monkeypatch.setattr(engine, "recipe_of", lambda given: recipe(given, epsilon=EPSILON))
    theirs = model.build(network)
    start = load().initial_weights(network, params.seed)
    theirs.set_weights(take_apart(network, start.weights))
    model.compile_for(theirs, params, steps=4)
    theirs.optimizer.epsilon = EPSILON
    theirs.run_eagerly = True  # a graph gives the same, but takes longer to make
    rows = []

    ours = engine.train(params, network, data, data, rows.append)

    shuffle = np.random.default_rng(params.seed)
    for number in (1, 2):
        order, told = shuffle.permutation(40), []
        for batch in (order[:25], order[25:]):
            found = np.asarray(theirs(data.images[batch]))
            losses = -np.log(found[np.arange(len(batch)), data.labels[batch]])
            told += zip(losses, found.argmax(axis=1) == data.labels[batch], strict=True)
            theirs.train_on_batch(data.images[batch], data.labels[batch])
        loss, accuracy = np.mean(told, axis=0)
        assert rows[-1][number - 1]["loss"] == pytest.approx(loss, abs=1e-5)
        assert rows[-1][number - 1]["accuracy"] == accuracy
    theirs.optimizer.finalize_variable_values(theirs.trainable_variables)
    adam = engine.adam_of(params, network, ours, 4)
    pairs = zip(
        [*take_apart(network, ours.weights), *adam.variables()],
        [*theirs.weights, *theirs.optimizer.variables],
        strict=True,
    )
    for mine, other in pairs:
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5, err_msg=other.path)
    predicted = theirs.predict(data.images, verbose=0)
    found = probabilities(network, take_apart(network, ours.weights), data.images)
    np.testing.assert_allclose(found, predicted, atol=1e-5)
    loss, accuracy = theirs.evaluate(data.images, data.labels, verbose=0)
    assert rows[-1][1]["validation_loss"] == pytest.approx(loss, abs=1e-5)
    assert rows[-1][1]["validation_accuracy"] == pytest.approx(accuracy)


# How Keras fits


def test_fit_tells_of_each_epoch_what_the_exact_engine_tells(section, data, capsys):
    shown, rest = (
        Data(*(part[where] for part in data[:2]), data.classes)
        for where in (slice(30), slice(30, None))
    )
    params = section(epochs=3, batch_size=8, learning_rate=0.003)
    kept, exact = [], []

    trained = model.fit(
        params,
        network := params.network((14, 14, 1), 10),
        shown,
        rest,
        lambda history: kept.append([*history]),
    )
    said = capsys.readouterr().out.splitlines()
    engine.train(params, network, shown, rest, exact.append)

    assert [len(history) for history in kept] == [1, 2, 3]
    assert kept[2][:2] == kept[1]
    for row, other in zip(kept[-1], exact[-1], strict=True):
        assert list(row) == list(other)
        assert row["epoch"] == other["epoch"]
        assert row["learning_rate"] == pytest.approx(other["learning_rate"], rel=1e-5)
    assert int(trained.optimizer.iterations) == 12
    assert kept[-1][-1]["loss"] < kept[-1][0]["loss"]
    loss, accuracy = trained.evaluate(rest.images, rest.labels, verbose=0)
    assert kept[-1][-1]["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert kept[-1][-1]["validation_accuracy"] == pytest.approx(accuracy)
    assert [line.split("  ")[0] for line in said] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_moved_batches_see_each_image_once_an_epoch_moved_by_the_kernels(section, data):
    moves = {"shift": 2.0, "rotation": 20.0, "fill": 0.5}
    params = section(batch_size=12, **moves)
    network = params.network((14, 14, 1), 10)
    data = data._replace(labels=np.arange(40))  # which say what an image was

    batches, orders = model.moved_batches(params, network, data), []
    for epoch in range(2):
        orders.append([])
        for index in range(len(batches)):
            images, labels = batches[index]
            moved = load().moved(
                network, Recipe(params.seed, **moves), data.images[labels], 4 * epoch + index
            )
            np.testing.assert_array_equal(images, moved)
            orders[-1] += labels.tolist()
        batches.on_epoch_end()

    assert len(batches) == 4
    assert [sorted(order) for order in orders] == [[*range(40)]] * 2
    assert orders[0] != orders[1]


def test_fit_takes_the_moved_batches_where_images_are_to_be_moved(section, data, monkeypatch):
    params, taken, rows = section(epochs=2, batch_size=8, rotation=180.0), [], []
    real = model.moved_batches

    def moved_batches(*given):
        batches = real(*given)
        take = type(batches).__getitem__
        type(batches).__getitem__ = lambda self, index: (
            taken.append((self.epoch, index)) or take(self, index)
        )
        return batches

    monkeypatch.setattr(model, "moved_batches", moved_batches)

    trained = model.fit(params, params.network((14, 14, 1), 10), data, data, rows.extend)

    assert int(trained.optimizer.iterations) == 10
    first, second = taken[-10:-5], taken[-5:]  # after those that Keras has looked at
    assert [sorted(index for _, index in epoch) for epoch in (first, second)] == [[*range(5)]] * 2
    assert {epoch + 1 for epoch, _ in first} == {epoch for epoch, _ in second}
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_in_bfloat16_layers_compute_in_it_and_give_float32_probabilities(section, data):
    runtime.start_tensorflow(42, "mixed_bfloat16")
    params = section(epochs=2, batch_size=8, dropout=0.3)
    network, rows = params.network((14, 14, 1), 10), []

    trained = model.fit(params, network, data, data, rows.extend)

    assert {layer.compute_dtype for layer in trained.layers[:-1]} == {"bfloat16"}
    assert {weight.dtype for weight in trained.weights} == {"float32"}
    predicted = trained.predict(data.images, verbose=0)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-6)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_weights_that_are_no_longer_finite_stop_it(section, data, refusal):
    wild, kept = section(learning_rate=1e39, schedule="constant", epochs=3), []

    message = refusal(model.fit, wild, wild.network((14, 14, 1), 10), data, data, kept.append)

    assert message == f"the weights of layer convolution_1 are no longer finite in epoch 1; {MEND}"
    assert kept == []


def test_a_validation_loss_that_is_not_finite_stops_it(section, data, monkeypatch, refusal):
    """Of blank images alone nothing but biases is learned."""
    build = model.build

    def huge(network):
        built = build(network)
        kernel = built.get_layer("probabilities").kernel
        kernel.assign(np.full(kernel.shape, 3e38))
        return built

    monkeypatch.setattr(model, "build", huge)
    blank = data._replace(images=np.zeros_like(data.images))
    params, kept = section(), []

    message = refusal(model.fit, params, params.network((14, 14, 1), 10), blank, data, kept.append)

    assert message == f"the validation loss is nan in epoch 1; {MEND}"
    assert kept == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_whose_weights_are_not_finite_is_named(value):
    built = model.build(usual(filters=(4,)))
    assert model.not_finite(built) == ""

    bias = built.get_layer("dense").bias
    bias.assign(np.full(bias.shape, value))

    assert model.not_finite(built) == "the weights of layer dense are no longer finite"
    assert keras.config.dtype_policy().name == "float32"  # of the test above nothing is left
