"""An epoch sees every image once, moved as the seed says; validation is what Keras evaluates.

That the steps of an epoch are Keras' own is for test_steps.py.
"""

import gc

import numpy as np
import pytest

from cnn import augmentation, engine
from cnn.npz import read_arrays, write_arrays
from cnn.runtime import keras
from tests.networks import (
    BATCH,
    ORDERS,
    adam,
    assert_same,
    batches,
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


def still():
    """A network whose weights stay, so that the means over an epoch are those of one network."""
    return made(lambda: compiled(sequential(conv(), pool(), *head()), adam(learning_rate=0.0)))


@pytest.mark.parametrize(
    ("batch_size", "shards"),
    [(BATCH, 1), (BATCH, 4), (1, 1), (3, 8), (40, 2), (8192, 4)],
)
def test_an_epoch_sees_every_image_once_whatever_the_batch_size(digits, batch_size, shards):
    """What fills up a short batch, the first image again, counts nowhere."""
    network = still()
    images, labels = digits
    probabilities = np.asarray(network(images))
    labels = np.where(np.arange(40) % 5, labels, probabilities.argmax(axis=1))
    assert labels[0] == probabilities[0].argmax()

    loss, accuracy = engine.compiled_epoch(network, images, labels, batch_size, shards)(ORDERS[0])

    expected = -np.log(probabilities[np.arange(40), labels]).mean()
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(accuracy) == pytest.approx((probabilities.argmax(axis=1) == labels).mean())
    assert int(network.optimizer.iterations) == -(-40 // batch_size)


def test_an_epoch_counts_an_image_as_often_as_the_order_names_it(digits):
    images, labels = digits
    network = still()

    loss, _ = engine.compiled_epoch(network, *digits, BATCH, shards=2)(np.full(40, 7))

    expected = -np.log(np.asarray(network(images[7:8]))[0, labels[7]])
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shards", [1, 4])
def test_the_moves_of_an_epoch_depend_on_the_seed_the_step_and_the_shard(digits, shards):
    images, labels = digits
    moves = augmentation.AugmentationParams(
        shift=2.0, rotation=20.0, shear=0.2, scale=0.1, fill=0.5
    )
    theirs = made(lambda: compiled(usual(), run_eagerly=True))
    size = -(-BATCH // shards)
    for step, batch in enumerate(batches()):
        filled = batch if shards == 1 else np.pad(batch, (0, size * shards - len(batch)))
        moved = [
            augmentation.augment(
                images[filled[shard * size :][:size]],
                np.array([7, step * shards + shard], np.int64),
                moves,
            )
            for shard in range(shards)
        ]
        theirs.train_on_batch(np.concatenate(moved)[: len(batch)], labels[batch])

    ours = made(lambda: compiled(usual()))
    epoch = engine.compiled_epoch(ours, images, labels, BATCH, shards, seed=7, moves=moves)
    for order in ORDERS:
        epoch(order)

    assert_same(ours, theirs)


VALIDATED = {
    "batch normalization": lambda: [keras.layers.BatchNormalization(), conv()],
    "kernel regularizer": lambda: [conv(kernel_regularizer="l2")],
    "dropout": lambda: [conv(), keras.layers.Dropout(0.5, seed=3)],
}


@pytest.mark.parametrize("name", VALIDATED)
def test_validation_is_what_keras_evaluates(digits, name, monkeypatch):
    network = made(
        lambda: compiled(sequential(*VALIDATED[name](), pool(), *head()), run_eagerly=True)
    )
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


def test_a_tensor_of_what_is_mapped_is_the_mapping_itself(tmp_path):
    pixels = np.arange(3000, dtype=np.float32)
    write_arrays(tmp_path / "a.npz", pixels=pixels)
    (mapped,) = read_arrays(tmp_path / "a.npz", ("pixels",))
    address = mapped.ctypes.data

    tensor = engine.in_tensorflow(mapped)
    moved = engine.in_tensorflow(mapped[1:])  # begins at no multiple of 64 bytes
    del mapped
    gc.collect()

    assert np.from_dlpack(tensor).ctypes.data == address
    assert np.from_dlpack(moved).ctypes.data != address + 4
    np.testing.assert_array_equal(tensor, pixels)
    np.testing.assert_array_equal(moved, pixels[1:])
