"""A step gives Keras' own numbers, on the whole batch or on shards, or is refused in one line.

The oracle is Keras' `train_on_batch`; for dropout, which draws anew for each shard, a plain loop
over shards. What shards must give to the bit, whoever computes them, is held against numpy.
"""

import numpy as np
import pytest

from cnn import engine, model, runtime, steps
from cnn.adam import apply_adam, is_plain_adam
from cnn.errors import UserError
from cnn.params import read_yaml
from cnn.runtime import keras
from cnn.shares import tree_sum
from stages.train import TrainParams
from tests.clones import ROOT, call_uncapped
from tests.networks import (
    BATCH,
    ORDERS,
    TOLERANCE,
    adam,
    assert_same,
    batches,
    by_keras,
    compiled,
    conv,
    head,
    made,
    pool,
    sequential,
    usual,
)


@pytest.fixture(autouse=True)
def started(tf):
    """Keras' state is that of a training stage."""


def dense(**settings):
    return keras.layers.Dense(10, **({"activation": "softmax", "dtype": "float32"} | settings))


def frozen(network, *numbers):
    for number in numbers:
        network.layers[number].trainable = False
    return network


def with_dropout():
    drop = [keras.layers.SpatialDropout2D(0.5, seed=3), keras.layers.Dropout(0.5, seed=4)]
    return sequential(conv(), pool(), *drop, *head())


def with_lora(network):
    network.layers[0].enable_lora(2)
    return network


def adam_without_decay_of(*names):
    optimizer = adam(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=list(names))
    return optimizer


# Networks that may be split, several kinds of layers in each since a graph takes a second to make,
# and how many of their ReLUs are taken after the pooling.
NETWORKS = {
    "pooling first, twice and not after each convolution": (
        1,
        lambda: sequential(
            pool(), conv(padding="same"), conv(padding="same"), pool(), pool(2, padding="same"),
            conv(padding="same"), *head(),
        ),
    ),
    "strides, padding and overlap": (
        2,
        lambda: sequential(
            conv(padding="same"), pool(3, strides=2, padding="same"),
            conv(strides=2), pool(2, strides=1), *head(),
        ),
    ),
    "dilation, no bias, GELU": (
        0,
        lambda: sequential(
            conv(dilation_rate=2, padding="same"), pool(),
            conv(use_bias=False, padding="same"), pool(),
            conv(activation="gelu", padding="same"), pool(), *head(),
        ),
    ),
    "a ReLU as a layer, one with an end, average pooling": (
        0,
        lambda: sequential(
            conv(activation=None), keras.layers.ReLU(), pool(),
            conv(activation=keras.layers.ReLU(0.1), padding="same"), pool(),
            conv(padding="same"), keras.layers.AveragePooling2D(2), *head(),
        ),
    ),
    "a regularizer of one kernel": (
        1, lambda: sequential(conv(kernel_regularizer="l2"), pool(), *head())),
    "regularizers of all weights": (
        1,
        lambda: sequential(
            conv(kernel_regularizer="l2", bias_regularizer="l1"), pool(), head()[0],
            dense(kernel_regularizer="l1", bias_regularizer="l2"),
        ),
    ),
    "separable and depthwise convolution, layer normalization": (
        0,
        lambda: sequential(
            keras.layers.SeparableConv2D(4, 3, activation="relu"), pool(),
            keras.layers.DepthwiseConv2D(3), keras.layers.LeakyReLU(),
            keras.layers.LayerNormalization(), *head(),
        ),
    ),
    "a frozen convolution, global average pooling": (
        1,
        lambda: frozen(
            sequential(conv(), pool(), conv(), keras.layers.GlobalAveragePooling2D(), head()[1]), 0
        ),
    ),
    "an activation and a softmax as layers, global max pooling": (
        0,
        lambda: sequential(
            conv(activation=None), keras.layers.Activation("tanh"),
            keras.layers.GlobalMaxPooling2D(), dense(activation=None),
            keras.layers.Softmax(dtype="float32"),
        ),
    ),
}  # fmt: skip
# Optimizers, and whether `apply` steps for them itself; test_adam.py has more of them.
OPTIMIZERS = {
    "Adam, decay, average and schedule": (
        True,
        lambda: adam(
            learning_rate=keras.optimizers.schedules.CosineDecay(0.01, 4), weight_decay=0.1,
            use_ema=True, ema_momentum=0.9,
        ),
    ),
    "Adam, global_clipnorm": (False, lambda: adam(global_clipnorm=0.01)),
    "Adam, clipvalue": (False, lambda: adam(clipvalue=0.001)),
    "Adam, accumulation": (False, lambda: adam(gradient_accumulation_steps=2)),
    "Adam, overwriting average": (
        False, lambda: adam(use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=2)),
    "Adam, some weights without decay": (False, lambda: adam_without_decay_of("bias")),
    "SGD, momentum": (False, lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
}  # fmt: skip
# What is trained on the whole batch alone: networks, optimizers, and what is told of shards.
WHOLE = {
    "batch normalization": (
        "(BatchNormalization) is not known to treat each image by itself",
        lambda: sequential(conv(), keras.layers.BatchNormalization(), pool(), *head()),
        adam,
    ),
    "activity regularizer": (
        "(Conv2D) is not known to treat each image by itself",
        lambda: sequential(conv(activity_regularizer="l2"), pool(), *head()),
        adam,
    ),
    "a layer that is not on the list": (
        "(GaussianNoise) is not known to treat each image by itself",
        lambda: sequential(keras.layers.GaussianNoise(0.5, seed=3), conv(), pool(), *head()),
        adam,
    ),
    "dynamic loss scale": (
        "the optimizer scales the loss",
        usual,
        lambda: keras.optimizers.LossScaleOptimizer(adam()),
    ),
    "fixed loss scale": (
        "the optimizer scales the loss",
        usual,
        lambda: adam(loss_scale_factor=8.0),
    ),
}


def by_steps(network, images, labels, shards, size=BATCH):
    """Train two epochs in `shards` shards."""
    epoch = engine.compiled_epoch(network, images, labels, size, shards)
    for order in ORDERS:
        epoch(order)
    return network


def by_a_loop_over_shards(network, images, labels, shards, size):
    """Train two epochs with Keras' own layers, loss and optimizer, one shard after the other."""
    for batch in batches(size):
        with engine.tf.GradientTape() as tape:
            losses = [
                network.loss(labels[part], network(images[part], training=True))
                for part in np.split(batch, shards)
            ]
            loss = sum(losses) / shards
        gradients = tape.gradient(loss, network.trainable_variables)
        network.optimizer.apply(gradients, network.trainable_variables)
    return network


def check_steps(make, digits, shards, **settings):
    """Compare with Keras' steps, after these have moved the weights by more than rounding."""
    theirs = by_keras(made(make), *digits, **settings)
    changed = zip(made(make).get_weights(), theirs.get_weights(), strict=True)
    assert max(np.abs(before - after).max() for before, after in changed) > 100 * TOLERANCE
    size = settings.get("size", BATCH)
    assert_same(by_steps(made(make), *digits, shards, size), theirs)


def deferred(network) -> int:
    """Count the ReLUs that are taken after the pooling."""
    layers = network.layers
    return sum(map(steps.is_deferred, layers, [*layers[1:], None]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_in_shards_as_keras_trains_it(digits, name):
    number, make = NETWORKS[name]
    network = compiled(make())
    assert (deferred(network), is_plain_adam(network)) == (number, True)

    check_steps(lambda: compiled(make()), digits, shards=2)


def test_each_kind_of_layer_that_may_be_split_is_in_a_network_here():
    networks = [make() for _, make in NETWORKS.values()] + [with_dropout()]

    found = {type(layer).__name__ for network in networks for layer in network.layers}

    assert found == set(steps.PER_IMAGE)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: (conv(), pool()), True),
        (lambda: (conv(strides=2, padding="same"), pool(3, strides=2, padding="same")), True),
        (lambda: (conv(kernel_regularizer="l2"), pool()), True),
        (lambda: (conv(), conv()), False),
        (lambda: (conv(), None), False),
        (lambda: (pool(), pool()), False),
        (lambda: (conv(), keras.layers.AveragePooling2D(2)), False),
        (lambda: (conv(dilation_rate=2), pool()), False),
        (lambda: (conv(use_bias=False), pool()), False),
        (lambda: (conv(activity_regularizer="l2"), pool()), False),
        (lambda: (conv(activation="gelu"), pool()), False),
        (lambda: (conv(activation=None), pool()), False),
        (lambda: (conv(activation=keras.layers.ReLU(0.1)), pool()), False),
        (lambda: (keras.layers.SeparableConv2D(4, 3, activation="relu"), pool()), False),
        (lambda: (keras.layers.Dense(4, activation="relu"), pool()), False),
        (lambda: (with_lora(usual()).layers[0], pool()), False),
    ],
)
def test_a_relu_waits_for_the_pooling_only_where_that_changes_nothing(make, expected):
    assert steps.is_deferred(*make()) == expected


@pytest.mark.parametrize(("size", "shards"), [(BATCH, 1), (3, 4)])
def test_one_shard_and_more_of_them_than_images_train_as_keras_does(digits, size, shards):
    check_steps(lambda: compiled(usual()), digits, shards, size=size, eagerly=size == BATCH)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_as_in_keras(digits, name):
    ours, optimizer = OPTIMIZERS[name]

    def make():
        return compiled(sequential(*head()), optimizer())

    assert is_plain_adam(make()) == ours
    check_steps(make, digits, shards=2)


def test_a_constraint_is_kept_as_in_keras(digits):
    def make():
        return compiled(sequential(head()[0], dense(kernel_constraint="non_neg")))

    assert not is_plain_adam(make())
    check_steps(make, digits, shards=2)


@pytest.mark.parametrize("shards", [1, 4])
def test_dropout_draws_anew_for_each_shard_as_keras_does_for_each_batch(digits, shards):
    def make():
        return compiled(with_dropout())

    theirs = by_a_loop_over_shards(made(make), *digits, shards, size=20)

    assert_same(by_steps(made(make), *digits, shards, size=20), theirs)


@pytest.mark.parametrize("name", WHOLE)
def test_what_needs_the_whole_batch_is_refused_in_shards_and_trained_as_keras_in_one(
    digits, refusal, name
):
    reason, network, optimizer = WHOLE[name]

    def make():
        return compiled(network(), optimizer())

    message = refusal(engine.compiled_epoch, make(), *digits, BATCH, 2)

    assert reason in message
    assert message.endswith("; set train.shards to 1")
    check_steps(make, digits, shards=1)


def test_the_default_is_trained_as_keras_trains_it(digits, params):
    settings = TrainParams.model_validate(params["train"])

    def make():
        network = model.build(settings, (14, 14, 1), 10)
        model.compile_for(network, settings, steps=4)
        network.optimizer.epsilon = 1e-3
        return network

    assert (deferred(make()), is_plain_adam(make())) == (2, True)
    assert settings.shards > 1
    check_steps(make, digits, settings.shards)


def test_the_recipe_for_accuracy_may_be_split_and_steps_by_our_kernels(params, pytestconfig):
    recipe = read_yaml(pytestconfig.rootpath / "recipes" / "accurate.yaml")
    settings = TrainParams.model_validate(params["train"] | recipe["train"])
    network = model.build(settings, (28, 28, 1), 10)
    model.compile_for(network, settings, steps=4)

    steps.check(network, settings.shards)

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
    "all frozen": lambda: compiled(frozen(usual(), *range(6))),
}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_what_is_odd_is_trained_as_keras_trains_it_or_refused(digits, name, shards):
    try:
        network = by_steps(made(ODD[name]), *digits, shards)
    except UserError as error:
        assert_tells_what_to_do(str(error))
    else:
        assert_same(network, by_keras(made(ODD[name]), *digits))


def assert_tells_what_to_do(message: str):
    assert "\n" not in message
    assert message.endswith(
        ("; change cnn/model.py, or train it with Keras' own fit", "; set train.shards to 1")
    )


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
def test_a_network_that_no_step_here_trains_is_refused_whatever_the_shards(refusal, name):
    reason, make = REFUSED[name]
    network = compiled(make())

    messages = {refusal(steps.check, network, shards) for shards in (1, 4)}

    (message,) = messages
    assert message.startswith(reason)
    assert message.endswith("; change cnn/model.py, or train it with Keras' own fit")


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
def test_another_loss_is_refused(refusal, loss):
    message = refusal(steps.check, compiled(usual(), loss=loss()), 1)

    assert message.startswith("the loss is not SparseCategoricalCrossentropy() with its mean")
    assert message.endswith("; change cnn/model.py, or train it with Keras' own fit")


def hold_pooling_before_bias_and_relu_against_keras(precision: str) -> None:
    """Output and gradients are Keras' to the bit; in float32, but for the gradient of a bias."""
    runtime.start_tensorflow(42, "native" if precision == "mixed_bfloat16" else "avx2")
    tf = runtime.tf
    params = read_yaml(ROOT / "params.yaml")
    images = np.random.default_rng(0).random((32, 28, 28, 1), np.float32)
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

    ours = of(lambda batch: steps.forward(network, batch))
    theirs = of(lambda batch: network(batch, training=True))

    assert deferred(network) == 2
    assert np.abs(theirs[1]).max() > 0
    names = ["output", *(variable.path for variable in network.trainable_variables)]
    for name, a, b in zip(names, ours, theirs, strict=True):
        if "convolution" in name and name.endswith("bias") and precision == "float32":
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max(), err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_pooling_before_bias_and_relu_changes_only_the_order_of_a_sum(tf):
    hold_pooling_before_bias_and_relu_against_keras("float32")


def test_pooling_before_bias_and_relu_changes_no_bit_in_bfloat16(tmp_path):
    call_uncapped(hold_pooling_before_bias_and_relu_against_keras, tmp_path, "mixed_bfloat16")


def test_two_workers_take_the_step_of_one_to_the_bit(tf, digits):
    """The whole of it: forward, gradient, sum and Adam."""
    images, labels = digits
    alone, together = (
        made(lambda: compiled(sequential(conv(), pool(), *head()))) for _ in range(2)
    )
    before = alone.get_weights()
    engine.compiled_epoch(alone, *digits, batch_size=40, shards=4)(np.arange(40))
    weights = np.full(10, 1 / 40, np.float32)
    variables = together.trainable_variables
    together.optimizer.build(variables)

    @tf.function
    def work(worker: int):
        found = []
        for shard in range(worker, 4, 2):
            rows = slice(10 * shard, 10 * shard + 10)
            part = tf.constant(images[rows]), tf.constant(labels[rows]), tf.constant(weights)
            found.append(tf.concat(steps.shard_gradient(together, *part)[0], axis=0))
        return tree_sum(tf.stack(found))

    total = work(0).numpy() + work(1).numpy()
    sizes = [variable.shape.num_elements() for variable in variables]
    parts = np.split(total, np.cumsum(sizes)[:-1])
    gradients = [
        tf.constant(part.reshape(variable.shape))
        for part, variable in zip(parts, variables, strict=True)
    ]
    apply_adam(together.optimizer, gradients, variables)

    for ours, theirs in (
        (alone.trainable_variables, variables),
        (alone.optimizer.variables, together.optimizer.variables),
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=a.path)
    assert np.abs(before[0] - alone.get_weights()[0]).max() > 100 * TOLERANCE
