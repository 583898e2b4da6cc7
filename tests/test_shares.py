"""The parts of a step are added in one fixed tree, of which a worker's shards are a branch.

That several workers give the bytes of one is for test_workers.py.
"""

import numpy as np
import pytest

from cnn import engine, runtime, shares
from cnn.data import load
from cnn.params import load as load_params
from cnn.runtime import keras
from stages import train
from tests.clones import call_uncapped


def tree(parts):
    """Add as `tree_sum` should, in numpy: i with i + k/2, and so on."""
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [a + b for a, b in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


def of_many_sizes(n: int) -> np.ndarray:
    """Return n rows float32 whose sum depends, in most columns, on what is added first."""
    rng = np.random.default_rng(n)
    values = rng.normal(size=(n, 1000)) * 10.0 ** rng.integers(-3, 4, (n, 1000))
    return values.astype(np.float32)


def in_a_graph(tf, add, rows):
    """Add tensors of one graph, each computed by an operation of its own."""

    @tf.function
    def total(values):
        return add(tf.stack([values[number] * 1.5 for number in range(len(rows))]))

    return total(tf.constant(rows)).numpy()


@pytest.mark.parametrize("number", [1, 2, 4, 8, 64])
def test_a_tree_adds_each_with_the_one_half_the_number_further_on(tf, number):
    rows = of_many_sizes(number)

    found = in_a_graph(tf, shares.tree_sum, rows)

    np.testing.assert_array_equal(found, tree(list(rows * np.float32(1.5))))
    if number > 2:  # else there is one order only
        assert (found != sum(rows[1:] * np.float32(1.5), rows[0] * np.float32(1.5))).mean() > 0.1


@pytest.mark.parametrize("number", [4, 8, 64])
def test_two_workers_with_every_other_shard_give_the_sum_of_one_to_the_bit(tf, number):
    rows = of_many_sizes(number)

    first, second = (in_a_graph(tf, shares.tree_sum, rows[worker::2]) for worker in (0, 1))

    np.testing.assert_array_equal(first + second, in_a_graph(tf, shares.tree_sum, rows))


def test_shards_that_others_compute_are_passed_over_by_what_is_random(tf):
    """Worker 1 of 2 draws what one alone draws for its second shard and its fourth."""

    def network():
        keras.utils.set_random_seed(5)
        return keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5)])

    ones = np.ones((1, 64), np.float32)
    alone = network()
    drawn = [np.asarray(alone(ones, training=True)) for _ in range(5)]
    worker, found = network(), []
    for before in (1, 1):
        shares.pass_over(worker, before)
        found.append(np.asarray(worker(ones, training=True)))

    np.testing.assert_array_equal(found, drawn[1:4:2])
    assert (drawn[1] != drawn[3]).any()
    np.testing.assert_array_equal(worker(ones, training=True), drawn[4])


def hold_two_devices_against_one(params_yaml: str, prepared: str) -> None:
    """Two logical CPUs under MirroredStrategy, as two GPUs: the weights are those of one."""
    runtime.start_tensorflow(42)
    tf = runtime.tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    changed = {"dropout": 0.3, "averaging": 0.9, "shift": 2.0, "shards": 4, "weight_decay": 0.1}
    params = load_params(params_yaml, "train", train.TrainParams).model_copy(update=changed)
    tensors = tuple(map(engine.in_tensorflow, load(f"{prepared}/train.npz")[:2]))
    found = []
    for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
        keras.utils.set_random_seed(42)
        network = train.train(params, tensors, tensors, 10, lambda history: None, strategy=strategy)
        found.append([each.tobytes() for each in network.get_weights()])
    assert found[0] == found[1]


def test_two_devices_of_one_machine_give_the_bytes_of_one(tiny_yaml, prepared, tmp_path):
    """In a process of its own: devices are told before anything is computed."""
    call_uncapped(hold_two_devices_against_one, tmp_path, str(tiny_yaml), str(prepared))


def test_the_longest_time_is_the_same_for_all(tf):
    first = shares.Share(0, 2, lambda row: tf.stack([row, [7.5]]))

    assert (first.longest(2.0), first.longest(9.0), shares.ALONE.longest(2.0)) == (7.5, 9.0, 2.0)


def test_the_places_of_all_workers_are_the_batch():
    """Six shards of two images and a half one; the eighth is empty."""
    first, second = (shares.Share(index, 2).places(13, 8).nonzero()[0] for index in (0, 1))

    assert first.tolist() == [0, 1, 4, 5, 8, 9, 12]
    assert second.tolist() == [2, 3, 6, 7, 10, 11]
