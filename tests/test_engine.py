"""The engine trains a network to Keras' own numbers, or says in one line that it does not.

Three ways take the same steps on the same batches: `fast_step`, `plain_step` and, as the oracle,
Keras' own `train_on_batch`.
"""

import numpy as np
import pytest

from cnn import augmentation, engine, model
from cnn.adam import is_plain_adam
from cnn.data import load
from cnn.errors import UserError
from cnn.params import read_yaml
from cnn.runtime import keras
from stages.train import TrainParams

BATCH = 24  # of 40 images: the last batch of an epoch holds 16
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def started(tf):
    """Keras' state is that of a training stage."""


@pytest.fixture(scope="module")
def digits(raw):
    """40 images of 14 x 14 pixels, and their labels."""
    images = raw["x_train"][:40, ::2, ::2, np.newaxis].astype(np.float32) / 255
    return images, raw["y_train"][:40].astype(np.int64)


def conv(**settings):
    return keras.layers.Conv2D(4, 3, **({"activation": "relu"} | settings))


def pool(*settings, **more):
    return keras.layers.MaxPooling2D(*settings, **more)


def head():
    """The layers after the convolutions; the softmax in float32 as the engine asks for it."""
    layers = keras.layers
    return [layers.Flatten(), layers.Dense(10, activation="softmax", dtype="float32")]


def sequential(*layers):
    return keras.Sequential([keras.Input((14, 14, 1)), *layers])


def usual():
    return sequential(conv(), pool(), conv(), pool(), *head())


def frozen(network, *numbers):
    for number in numbers:
        network.layers[number].trainable = False
    return network


def with_lora(network):
    network.layers[0].enable_lora(2)
    return network


def adam(**settings):
    # With Adam's usual epsilon a gradient that is nothing but rounding makes a step of full size.
    return keras.optimizers.Adam(**({"learning_rate": 0.01, "epsilon": 1e-3} | settings))


def compiled(network, optimizer=None, loss=None, **settings):
    loss = loss or keras.losses.SparseCategoricalCrossentropy()
    network.compile(optimizer or adam(), loss, metrics=["accuracy"], **settings)
    return network


def adam_without_decay_of(*names):
    optimizer = adam(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=list(names))
    return optimizer


# Networks, and how many of their ReLUs are taken after the pooling.
NETWORKS = {
    "two times convolution and pooling": (2, usual),
    "two convolutions before one pooling": (
        1, lambda: sequential(conv(), conv(), pool(), *head())),
    "pooling before convolution": (1, lambda: sequential(pool(), conv(), pool(), *head())),
    "convolution without pooling": (0, lambda: sequential(conv(), *head())),
    "strides": (1, lambda: sequential(conv(strides=2), pool(), *head())),
    "padding": (1, lambda: sequential(conv(padding="same"), pool(), *head())),
    "pooling with padding and overlap": (
        1, lambda: sequential(conv(), pool(3, strides=2, padding="same"), *head())),
    "dilation": (0, lambda: sequential(conv(dilation_rate=2), pool(), *head())),
    "no bias": (0, lambda: sequential(conv(use_bias=False), pool(), *head())),
    "kernel regularizer": (1, lambda: sequential(conv(kernel_regularizer="l2"), pool(), *head())),
    "activity regularizer": (
        0, lambda: sequential(conv(activity_regularizer="l2"), pool(), *head())),
    "GELU": (0, lambda: sequential(conv(activation="gelu"), pool(), *head())),
    "a ReLU layer": (
        0, lambda: sequential(conv(activation=None), keras.layers.ReLU(), pool(), *head())),
    "a ReLU with an end": (
        0, lambda: sequential(conv(activation=keras.layers.ReLU(0.1)), pool(), *head())),
    "average pooling": (
        0, lambda: sequential(conv(), keras.layers.AveragePooling2D(2), *head())),
    "batch normalization": (
        1,
        lambda: sequential(
            conv(), keras.layers.BatchNormalization(), pool(), conv(), pool(), *head()
        ),
    ),
    "separable convolution": (
        0, lambda: sequential(keras.layers.SeparableConv2D(4, 3, activation="relu"), pool(),
                              *head())),
    "global average pooling": (
        1,
        lambda: sequential(
            conv(), pool(), conv(), keras.layers.GlobalAveragePooling2D(), *head()[1:]
        ),
    ),
    "dropout": (1, lambda: sequential(conv(), pool(), keras.layers.Dropout(0.5, seed=3), *head())),
    "a frozen convolution": (2, lambda: frozen(usual(), 0)),
}  # fmt: skip
# Optimizers, and whether the engine steps for them itself.
OPTIMIZERS = {
    "Adam, betas": (True, lambda: adam(beta_1=0.7, beta_2=0.9)),
    "Adam, decay and average": (
        True, lambda: adam(weight_decay=0.1, use_ema=True, ema_momentum=0.9)),
    "Adam, schedule": (
        True, lambda: adam(learning_rate=keras.optimizers.schedules.CosineDecay(0.01, 4))),
    "Adam, clipnorm": (False, lambda: adam(clipnorm=0.01)),
    "Adam, clipvalue": (False, lambda: adam(clipvalue=0.001)),
    "Adam, global_clipnorm": (False, lambda: adam(global_clipnorm=0.01)),
    "Adam, amsgrad": (False, lambda: adam(amsgrad=True)),
    "Adam, accumulation": (False, lambda: adam(gradient_accumulation_steps=2)),
    "Adam, overwriting average": (
        False, lambda: adam(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2)),
    "Adam, loss scale": (False, lambda: adam(loss_scale_factor=8.0)),
    "Adam, some weights without decay": (False, lambda: adam_without_decay_of("bias")),
    "AdamW": (False, lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-3)),
    "SGD, momentum": (False, lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
}  # fmt: skip
ORDERS = [np.random.default_rng(seed).permutation(40) for seed in (1, 2)]


def made(make):
    """Call `make`, which draws the same weights whenever it is called here."""
    keras.utils.set_random_seed(5)
    return make()


def by_the_engine(network, images, labels, **settings):
    """Train two epochs with the engine."""
    epoch = engine.compiled_epoch(network, images, labels, BATCH, **settings)
    for order in ORDERS:
        epoch(order)
    return network


def batches():
    """Return the batches of two epochs, each as indices."""
    return [order[first : first + BATCH] for order in ORDERS for first in range(0, 40, BATCH)]


def by_plain_steps(network, images, labels):
    """Train two epochs with the engine's simple step, one after the other."""
    for batch in batches():
        engine.plain_step(network, images[batch], labels[batch])
    return network


def by_keras(network, images, labels, eagerly=True):
    """Train two epochs with Keras' own steps; a graph gives the same, but takes longer to make."""
    network.run_eagerly = eagerly
    for batch in batches():
        network.train_on_batch(images[batch], labels[batch])
    return network


def assert_same(ours, theirs):
    """Compare weights, other state such as moving means, and what the optimizer remembers."""
    for kind in ("trainable_variables", "non_trainable_variables"):
        for a, b in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=a.path)
    for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=a.path)


def check_steps(make, digits):
    """Compare the engine's epochs, and its simple step where there are two, with Keras' steps."""
    theirs = by_keras(made(make), *digits)
    changed = zip(made(make).get_weights(), theirs.get_weights(), strict=True)
    assert max(np.abs(before - after).max() for before, after in changed) > 100 * TOLERANCE
    ours = by_the_engine(made(make), *digits)
    assert_same(ours, theirs)
    if is_plain_adam(ours):
        assert_same(by_plain_steps(made(make), *digits), theirs)


def deferred(network) -> int:
    """Count the ReLUs that are taken after the pooling."""
    layers = network.layers
    return sum(map(engine.is_deferred, layers, [*layers[1:], None]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_as_keras_trains_it(digits, name):
    number, make = NETWORKS[name]
    network = compiled(make())
    assert (deferred(network), is_plain_adam(network)) == (number, True)

    check_steps(lambda: compiled(make()), digits)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_as_in_keras(digits, name):
    ours, optimizer = OPTIMIZERS[name]

    def make():
        return compiled(sequential(conv(), pool(), *head()), optimizer())

    assert is_plain_adam(make()) == ours
    check_steps(make, digits)


def test_a_constraint_is_kept_as_in_keras(digits):
    def make():
        return compiled(sequential(conv(kernel_constraint="non_neg"), pool(), *head()))

    assert not is_plain_adam(make())
    check_steps(make, digits)


def test_the_default_takes_the_fast_step_and_is_trained_as_keras_trains_it_in_a_graph(
    digits, params
):
    settings = TrainParams.model_validate(params["train"])

    def make():
        network = model.build(settings, (14, 14, 1), 10)
        model.compile_for(network, settings, steps=4)
        network.optimizer.epsilon = 1e-3
        return network

    assert (deferred(make()), is_plain_adam(make())) == (2, True)
    theirs = by_keras(made(make), *digits, eagerly=False)
    for step in (engine.fast_step, engine.plain_step):
        assert_same(by_the_engine(made(make), *digits, step=step), theirs)


def test_the_recipe_for_accuracy_takes_the_fast_step(params, pytestconfig):
    recipe = read_yaml(pytestconfig.rootpath / "recipes" / "accurate.yaml")
    settings = TrainParams.model_validate(params["train"] | recipe["train"])
    network = model.build(settings, (28, 28, 1), 10)
    model.compile_for(network, settings, steps=4)

    assert (deferred(network), is_plain_adam(network)) == (2, True)


ODD = {
    "loss weights": lambda: compiled(usual(), loss_weights=[0.1]),
    "LoRA": lambda: compiled(with_lora(usual())),
    "no input layer": lambda: compiled(keras.Sequential([conv(), pool(), *head()])),
    "an input in bfloat16": lambda: compiled(
        keras.Sequential([keras.Input((14, 14, 1), dtype="bfloat16"), conv(), pool(), *head()])
    ),
    "an input without channels": lambda: compiled(
        keras.Sequential([keras.Input((14, 14)), keras.layers.Dense(4), *head()])
    ),
    "a loss in bfloat16": lambda: compiled(
        usual(), loss=keras.losses.SparseCategoricalCrossentropy(dtype="bfloat16")
    ),
    "a loss of logits": lambda: compiled(
        sequential(conv(), pool(), keras.layers.Flatten(), keras.layers.Dense(10)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ),
    "a loss that ignores a class": lambda: compiled(
        usual(), loss=keras.losses.SparseCategoricalCrossentropy(ignore_class=3)
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_trained_as_keras_trains_it_or_refused(digits, name):
    try:
        network = by_the_engine(made(ODD[name]), *digits)
    except UserError as error:
        assert_tells_what_to_do(str(error))
    else:
        assert_same(network, by_keras(made(ODD[name]), *digits))


def assert_tells_what_to_do(message: str):
    assert "\n" not in message
    assert message.endswith("; change cnn/model.py, or train it with Keras' own fit")


def two_inputs():
    one, other = keras.Input((14, 14, 1)), keras.Input((14, 14, 1))
    layers = head()
    return keras.Model([one, other], layers[1](layers[0](one + other)))


def two_outputs():
    images = keras.Input((14, 14, 1))
    flat = keras.layers.Flatten()(images)
    return keras.Model(images, [head()[1](flat), head()[1](flat)])


def subclass(kind):
    class Own(kind):
        def call(self, inputs, *_, **__):
            return inputs

    return Own(name="mine")


REFUSED = {
    "two inputs": ("the network is a Functional, not a Sequential", two_inputs),
    "two outputs": ("the network is a Functional, not a Sequential", two_outputs),
    "a class of one's own": ("the network is a Own", lambda: subclass(keras.Model)),
    "a Sequential of one's own": ("the network is a Own", lambda: subclass(keras.Sequential)),
    "a nested model": (
        "layer 'inner'",
        lambda: sequential(keras.Sequential([conv(), pool()], name="inner"), *head()),
    ),
    "a layer of one's own": (
        "layer 'mine'",
        lambda: sequential(subclass(keras.layers.Layer), *head()),
    ),
    "a Lambda": (
        "layer 'double'",
        lambda: sequential(keras.layers.Lambda(lambda x: 2 * x, name="double"), *head()),
    ),
    "a last layer in bfloat16": (
        "the last layer computes in bfloat16, not float32",
        lambda: sequential(*head()[:1], keras.layers.Dense(10, "softmax", dtype="bfloat16")),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_the_engine_cannot_train_is_refused(digits, refusal, name):
    reason, make = REFUSED[name]

    message = refusal(engine.compiled_epoch, compiled(make()), *digits, BATCH)

    assert message.startswith(reason)
    assert_tells_what_to_do(message)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
        lambda: keras.losses.SparseCategoricalCrossentropy(reduction=None),
        lambda: keras.losses.CategoricalCrossentropy(),
        lambda: "sparse_categorical_crossentropy",
        lambda: [keras.losses.SparseCategoricalCrossentropy()],
    ],
    ids=["sum", "no reduction", "another", "name", "list"],
)
def test_another_loss_is_refused(digits, refusal, loss):
    message = refusal(engine.compiled_epoch, compiled(usual(), loss=loss()), *digits, BATCH)

    assert message.startswith("the loss is not SparseCategoricalCrossentropy() with its mean")
    assert_tells_what_to_do(message)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_pooling_before_relu_changes_no_bit_of_output_or_gradients(tf, params, prepared, precision):
    images = load(prepared / "test.npz").images[:32]
    settings = TrainParams.model_validate(params["train"])
    keras.config.set_dtype_policy(precision)
    try:
        network = model.build(settings, (28, 28, 1), 10)
    finally:
        keras.config.set_dtype_policy("float32")

    def of(call):
        @tf.function  # as the train stage runs it, with the kernels that a graph fuses
        def results():
            with tf.GradientTape() as tape:
                output = call(images)
                loss = tf.reduce_sum(output[:, 3])
            return output, *tape.gradient(loss, network.trainable_variables)

        return [value.numpy() for value in results()]

    ours = of(lambda batch: engine.forward(network, batch))
    theirs = of(lambda batch: network(batch, training=True))

    assert deferred(network) == 2
    assert np.abs(theirs[1]).max() > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def still():
    """A network whose weights stay, so that the means over an epoch are those of one network."""
    return made(lambda: compiled(usual(), adam(learning_rate=0.0)))


def test_an_epoch_sees_every_image_once_with_the_short_last_batch(digits):
    images, labels = digits
    network = still()

    loss, accuracy = engine.compiled_epoch(network, *digits, BATCH)(ORDERS[0])

    probabilities = np.asarray(network(images))
    expected = -np.log(probabilities[np.arange(40), labels]).mean()
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(accuracy) == pytest.approx((probabilities.argmax(axis=1) == labels).mean())


def test_an_epoch_counts_an_image_as_often_as_the_order_names_it(digits):
    images, labels = digits
    network = still()

    loss, _ = engine.compiled_epoch(network, *digits, BATCH)(np.zeros(40, np.int64))

    expected = -np.log(np.asarray(network(images[:1]))[0, labels[0]])
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 40, 8192])
def test_any_batch_size_makes_an_epoch(digits, batch_size):
    network = still()

    engine.compiled_epoch(network, *digits, batch_size)(np.arange(40))

    assert int(network.optimizer.iterations) == -(-40 // batch_size)


def test_the_moves_of_an_epoch_depend_on_the_seed_and_the_step(digits):
    images, labels = digits
    moves = augmentation.AugmentationParams(
        shift=2.0, rotation=20.0, shear=0.2, scale=0.1, fill=0.5
    )
    theirs = made(lambda: compiled(usual(), run_eagerly=True))
    for step, batch in enumerate(batches()):
        moved = augmentation.augment(images[batch], np.array([7, step], np.int64), moves)
        theirs.train_on_batch(moved, labels[batch])

    ours = by_the_engine(made(lambda: compiled(usual())), *digits, seed=7, moves=moves)

    assert_same(ours, theirs)


@pytest.mark.parametrize("name", ["batch normalization", "kernel regularizer", "dropout"])
def test_validation_is_what_keras_evaluates(digits, name, monkeypatch):
    network = made(lambda: compiled(NETWORKS[name][1](), run_eagerly=True))
    monkeypatch.setattr(engine, "VALIDATION_BATCH", 16)  # the last one holds 8

    validate = engine.compiled_validation(network, *map(engine.in_tensorflow, digits))
    before = [float(value) for value in validate()]
    network.train_on_batch(*digits)

    theirs = network.evaluate(*digits, verbose=0)
    assert [float(value) for value in validate()] == pytest.approx(theirs, abs=1e-6)
    assert before != pytest.approx(theirs, abs=1e-6)  # of the network as it stands, not as it stood


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.int64),
        np.linspace(0, 1, 2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5),
        np.arange(20, dtype=np.float32)[::3],
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.array([[9]], np.uint8),
    ],
    ids=["labels", "images", "strided", "transposed", "one"],
)
def test_a_tensor_has_the_values_of_its_array_in_memory_that_tensorflow_did_not_copy(
    array, monkeypatch
):
    memory, empty = [], np.empty
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", lambda *size: memory.append(empty(*size)) or memory[0])
        tensor = engine.in_tensorflow(array)

    np.testing.assert_array_equal(tensor, array)
    assert tensor.dtype.as_numpy_dtype == array.dtype
    assert tensor.__dlpack_device__()[0] == 1  # main memory
    address = np.from_dlpack(tensor).ctypes.data
    assert 0 <= address - memory[0].ctypes.data < engine.ALIGNMENT
    assert address % engine.ALIGNMENT == 0


def test_a_tensor_outlives_its_array_and_does_not_follow_it():
    array = np.ones(1000, np.float32)
    tensor = engine.in_tensorflow(array)
    array[:] = 2
    del array

    assert float(np.asarray(tensor).sum()) == 1000
