"""Keras' own engine: the same layers, compiled and fitted; and the kernels' steps are Keras'."""

import math

import numpy as np
import pytest

from cnn.base.params import load as load_params
from cnn.data.sets import Data
from cnn.kernels import Recipe, lay_out, load, probabilities, take_apart
from cnn.model import keras_runtime
from cnn.model.network import Network, network_of
from cnn.training import engine
from cnn.training.params import TrainParams
from tests.helpers.late import keras, keras_engine

MNIST = (28, 28, 1)
EPSILON = 1e-3  # with Adam's usual one a gradient that is nothing but rounding makes a full step
REMEDY = "lower train.learning_rate in params.yaml and run 'dvc repro'"


@pytest.fixture(autouse=True)
def started(tf):
    """Keras' state is that of a training stage."""


@pytest.fixture
def data(digits) -> Data:
    return Data(*digits, np.array([*"0123456789"]))


def usual(**changed):
    form = {"filters": (32, 64), "kernel_size": 3, "dense_units": (128,), "dropout": 0.0}
    return network_of(**(form | {"image_shape": MNIST, "classes": 10} | changed))


# ---- What is built -------------------------------------------------------------------------------


def test_the_defaults_have_225034_parameters(pytestconfig):
    default = load_params(pytestconfig.rootpath / "params.yaml", "train", TrainParams)

    assert keras_engine.build(default.network(MNIST, 10)).count_params() == 225_034


def test_the_layers_are_the_seven_of_the_seed_in_their_order_and_dropout_where_asked():
    built = keras_engine.build(usual(dropout=0.3))

    assert [
        (type(layer).__name__, layer.name, getattr(getattr(layer, "activation", 0), "__name__", ""))
        for layer in built.layers
    ] == [
        ("Conv2D", "convolution_1", "relu"),
        ("MaxPooling2D", "pooling_1", ""),
        ("Conv2D", "convolution_2", "relu"),
        ("MaxPooling2D", "pooling_2", ""),
        ("Flatten", "flatten", ""),
        ("Dropout", "dropout", ""),
        ("Dense", "dense", "relu"),
        ("Dense", "probabilities", "softmax"),
    ]
    assert built.get_layer("dropout").rate == 0.3
    assert (built.input_shape, built.output_shape) == ((None, 28, 28, 1), (None, 10))
    names = [layer.name for layer in keras_engine.build(usual()).layers]
    assert names == [layer.name for layer in built.layers if layer.name != "dropout"]


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

    built = keras_engine.build(network)

    for theirs, ours in zip(built.layers, network.layers()[1:], strict=True):
        assert (type(theirs).__name__, theirs.name) == (ours.kind, ours.name)
        assert theirs.input.shape[1:] == ours.input_shape
        assert theirs.output.shape[1:] == ours.output_shape
        assert [weight.shape for weight in theirs.weights] == [*ours.weights.values()]
    found = np.asarray(built(np.zeros((2, *network.image_shape), np.float32)))
    assert found.shape == (2, network.classes)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


# ---- How it is compiled --------------------------------------------------------------------------


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
@pytest.mark.parametrize("steps", [1, 7, 60])
def test_keras_learning_rates_are_those_of_the_exact_engine(section, changed, steps):
    params, wanted = section(**changed), np.arange(steps)

    schedule = keras_engine.learning_rate_of(params, steps)

    theirs = [float(schedule(step)) if callable(schedule) else schedule for step in wanted]
    ours = engine.learning_rates(params, steps, wanted, load())
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7 * params.learning_rate)


def test_every_parameter_of_the_optimizer_reaches_it(section):
    built = keras_engine.build(usual(filters=(4,)))
    settings = {"beta_1": 0.7, "beta_2": 0.8, "weight_decay": 0.1, "averaging": 0.5}

    keras_engine.compile_for(built, section(schedule="constant", **settings), steps=10)

    adam = built.optimizer
    assert (adam.name, adam.beta_1, adam.beta_2, adam.weight_decay) == ("adam", 0.7, 0.8, 0.1)
    assert (adam.use_ema, adam.ema_momentum, adam.ema_overwrite_frequency) == (True, 0.5, None)
    assert float(adam.learning_rate) == pytest.approx(0.01)
    assert adam.epsilon == Recipe().epsilon
    keras_engine.compile_for(built, section(weight_decay=0.0, averaging=0.0), steps=10)
    assert (built.optimizer.weight_decay, built.optimizer.use_ema) == (None, False)


# ---- The kernels' steps are Keras' ---------------------------------------------------------------

NETWORKS = {
    "the default's layers": Network((14, 14, 1), (8, 24), 3, "valid", (20,), 0.0, 10),
    "one convolution, colour, no hidden layer": Network((12, 9, 3), (5,), 5, "same", (), 0.0, 3),
    "deep": Network((33, 40, 3), (17, 3, 40, 16), 2, "valid", (9, 30, 7), 0.0, 100),
    "kernels of 4, same": Network((16, 16, 1), (6, 7), 4, "same", (5,), 0.0, 2),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_probabilities_losses_and_gradients_are_those_of_keras(tf, network):
    random, built = np.random.default_rng(0), load()
    images = random.random((10, *network.image_shape), np.float32)
    labels = random.integers(0, network.classes, 10)
    state = built.initial_weights(network, 2)
    state.weights[...] = lay_out(
        network, [a + random.normal(0, 0.1, a.shape) for a in take_apart(network, state.weights)]
    )
    model = keras_engine.build(network)
    model.set_weights(take_apart(network, state.weights))
    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        each = keras.losses.sparse_categorical_crossentropy(labels, outputs)
        loss = tf.reduce_mean(each)
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_variables])

    predicted, losses = built.predict(network, state.weights, images, labels)
    recipe = Recipe(batch_size=10, shards=4, beta_1=0.0)  # so that the momenta are the gradients
    rate = np.float32([0.001])
    step_losses, correct = built.train(
        network, recipe, state, images, labels, np.arange(10), 0, rate, rate
    )

    np.testing.assert_allclose(predicted, outputs, atol=2e-6)
    np.testing.assert_allclose(losses, each, atol=1e-5)
    assert step_losses[0] == pytest.approx(float(loss), abs=1e-5)
    assert correct == (np.asarray(outputs).argmax(axis=1) == labels).sum()
    for found, expected in zip(take_apart(network, state.momenta), gradients, strict=True):
        expected = np.asarray(expected)
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max() + 1e-9)


FORMS = {
    "usual": {},
    "decay and average": {"weight_decay": 0.1, "averaging": 0.9},
    "constant": {"schedule": "constant", "beta_1": 0.7, "beta_2": 0.9},
    "balanced": {"class_weights": "balanced"},
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
    monkeypatch.setattr(
        engine, "recipe_of", lambda *given: recipe(*given)._replace(epsilon=EPSILON)
    )
    theirs = keras_engine.build(network)
    start = load().initial_weights(network, params.seed)
    theirs.set_weights(take_apart(network, start.weights))
    keras_engine.compile_for(theirs, params, steps=4)
    theirs.optimizer.epsilon = EPSILON
    theirs.run_eagerly = True  # a graph gives the same, but takes longer to make
    counts = np.bincount(data.labels, minlength=10)
    weights = 40 / 10 / counts if "class_weights" in changed else np.ones(10)
    rows = []

    ours = engine.train(params, network, data, data, rows.append)

    shuffle = np.random.default_rng(params.seed)
    for number in (1, 2):
        order, seen = shuffle.permutation(40), []
        for batch in (order[:25], order[25:]):
            found = np.asarray(theirs(data.images[batch]))
            losses = -np.log(found[np.arange(len(batch)), data.labels[batch]])
            losses *= weights[data.labels[batch]]
            seen += zip(losses, found.argmax(axis=1) == data.labels[batch], strict=True)
            theirs.train_on_batch(
                data.images[batch], data.labels[batch], class_weight=dict(enumerate(weights))
            )
        loss, accuracy = np.mean(seen, axis=0)
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


# ---- How Keras fits ------------------------------------------------------------------------------


def test_fit_reports_of_each_epoch_what_the_exact_engine_reports(section, data, capsys):
    shown, rest = (
        Data(data.images[where], data.labels[where], data.classes)
        for where in (slice(30), slice(30, None))
    )
    params = section(epochs=3, batch_size=8, learning_rate=0.003)
    network = params.network((14, 14, 1), 10)
    histories, exact = [], []

    trained = keras_engine.fit(
        params, network, shown, rest, lambda history: histories.append([*history])
    )
    lines = capsys.readouterr().out.splitlines()
    engine.train(params, network, shown, rest, exact.append)

    assert [len(history) for history in histories] == [1, 2, 3]
    assert histories[2][:2] == histories[1]
    for row, other in zip(histories[-1], exact[-1], strict=True):
        assert list(row) == list(other)
        assert row["epoch"] == other["epoch"]
        assert row["learning_rate"] == pytest.approx(other["learning_rate"], rel=1e-5)
    assert int(trained.optimizer.iterations) == 12
    first, *_, last = histories[-1]
    assert last["loss"] < first["loss"]
    loss, accuracy = trained.evaluate(rest.images, rest.labels, verbose=0)
    assert last["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert last["validation_accuracy"] == pytest.approx(accuracy)
    epochs = [line.split("  ")[0] for line in lines if line.startswith("epoch")]
    assert epochs == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_both_engines_have_the_weights_of_scikit_learn(section, data, monkeypatch):
    from sklearn.utils.class_weight import compute_class_weight

    data = data._replace(labels=np.minimum(data.labels, 3), classes=data.classes[:4])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=data.labels)
    params = section(class_weights="balanced")
    weights = engine.class_weights(params, data.labels, 4)
    np.testing.assert_allclose(weights, expected)
    assert engine.class_weights(section(), data.labels, 4) == ()
    given = {}
    monkeypatch.setattr(keras.Sequential, "fit", lambda *_, **kwargs: given.update(kwargs))

    keras_engine.fit(params, params.network((14, 14, 1), 4), data, data)

    assert given["class_weight"] == dict(enumerate(weights))


def test_moved_batches_see_each_image_once_an_epoch_moved_by_the_kernels(section, data):
    moves = {"shift": 0.1, "rotation": 20.0, "fill": 0.5}
    params = section(batch_size=12, **moves)
    network = params.network((14, 14, 1), 10)
    data = data._replace(labels=np.arange(40))  # which say what an image was

    batches, orders = keras_engine.moved_batches(params, network, data), []
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
    params, seen, rows = section(epochs=2, batch_size=8, rotation=180.0), [], []
    real = keras_engine.moved_batches

    def moved_batches(*given):
        batches = real(*given)
        get = type(batches).__getitem__
        type(batches).__getitem__ = lambda self, index: (
            seen.append((self.epoch, index)) or get(self, index)
        )
        return batches

    monkeypatch.setattr("cnn.training.keras_engine.moved_batches", moved_batches)

    trained = keras_engine.fit(params, params.network((14, 14, 1), 10), data, data, rows.extend)

    assert int(trained.optimizer.iterations) == 10
    first, second = seen[-10:-5], seen[-5:]  # after those that Keras has looked at
    assert [sorted(index for _, index in epoch) for epoch in (first, second)] == [[*range(5)]] * 2
    assert {epoch + 1 for epoch, _ in first} == {epoch for epoch, _ in second}
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_in_bfloat16_layers_compute_in_it_and_give_float32_probabilities(section, data):
    keras_runtime.start_keras(42, "mixed_bfloat16")
    params = section(epochs=2, batch_size=8, dropout=0.3)
    network, rows = params.network((14, 14, 1), 10), []

    trained = keras_engine.fit(params, network, data, data, rows.extend)

    assert {layer.compute_dtype for layer in trained.layers[:-1]} == {"bfloat16"}
    assert {weight.dtype for weight in trained.weights} == {"float32"}
    predicted = trained.predict(data.images, verbose=0)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-6)
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.fixture
def stopped(data, refusal):
    """Return why a fit stops in its first epoch."""

    def call(params: TrainParams, training: Data = data) -> str:
        rows, network = [], params.network((14, 14, 1), 10)
        message = refusal(keras_engine.fit, params, network, training, data, rows.append)
        assert rows == []
        return message.removesuffix(f" in epoch 1; {REMEDY}")

    return call


def test_weights_that_are_no_longer_finite_stop_it(section, stopped):
    wild = section(learning_rate=1e39, schedule="constant", epochs=3)

    assert stopped(wild) == "the weights of layer convolution_1 are no longer finite"


def test_a_validation_loss_that_is_not_finite_stops_it(section, data, monkeypatch, stopped):
    """Of blank images nothing but biases is learned."""
    build = keras_engine.build

    def huge(network):
        built = build(network)
        kernel = built.get_layer("probabilities").kernel
        kernel.assign(np.full(kernel.shape, 3e38))
        return built

    monkeypatch.setattr("cnn.training.keras_engine.build", huge)
    blank = data._replace(images=np.zeros_like(data.images))

    assert stopped(section(), blank) == "the validation loss is nan"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_layer_whose_weights_are_not_finite_is_named(value):
    built = keras_engine.build(usual(filters=(4,)))
    assert keras_runtime.layer_not_finite(built) == ""

    bias = built.get_layer("dense").bias
    bias.assign(np.full(bias.shape, value))

    assert keras_runtime.layer_not_finite(built) == "dense"
    assert keras.config.dtype_policy().name == "float32"  # of the test above nothing is left
