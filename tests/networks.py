"""Networks and optimizers of many kinds, and Keras' own training of them to compare with."""

from __future__ import annotations

import numpy as np

from cnn.runtime import keras

BATCH = 25  # of 40 images: the last batch of an epoch holds 15, and four shards divide neither
TOLERANCE = 1e-5
ORDERS = [np.random.default_rng(seed).permutation(40) for seed in (1, 2)]


def conv(**settings):
    return keras.layers.Conv2D(4, 3, **({"activation": "relu"} | settings))


def pool(*settings, **more):
    return keras.layers.MaxPooling2D(*settings, **more)


def head():
    """The layers after the convolutions; the softmax in float32 as the steps ask for it."""
    layers = keras.layers
    return [layers.Flatten(), layers.Dense(10, activation="softmax", dtype="float32")]


def sequential(*layers):
    return keras.Sequential([keras.Input((14, 14, 1)), *layers])


def usual():
    return sequential(conv(), pool(), conv(), pool(), *head())


def adam(**settings):
    # With Adam's usual epsilon a gradient that is nothing but rounding makes a step of full size.
    return keras.optimizers.Adam(**({"learning_rate": 0.01, "epsilon": 1e-3} | settings))


def compiled(network, optimizer=None, loss=None, **settings):
    loss = loss or keras.losses.SparseCategoricalCrossentropy()
    network.compile(optimizer or adam(), loss, metrics=["accuracy"], **settings)
    return network


def made(make):
    """Call `make`, which draws the same weights whenever it is called here."""
    keras.utils.set_random_seed(5)
    return make()


def batches(size=BATCH):
    """Return the batches of two epochs of 40 images, each as indices."""
    return [order[first : first + size] for order in ORDERS for first in range(0, 40, size)]


def by_keras(network, images, labels, eagerly=True, size=BATCH):
    """Train two epochs with Keras' own steps; a graph gives the same, but takes longer to make."""
    network.run_eagerly = eagerly
    for batch in batches(size):
        network.train_on_batch(images[batch], labels[batch])
    return network


def assert_same(ours, theirs):
    """Compare weights, other state such as moving means, and what the optimizer remembers."""
    for kind in ("trainable_variables", "non_trainable_variables"):
        for a, b in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=a.path)
    for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=a.path)
