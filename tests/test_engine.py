"""The training by the kernels: its order, its rates and sums, and the same bytes however it runs.

That its steps are Keras' own is for test_keras_engine.py, that it resumes from any state for
test_checkpoint.py.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from cnn.data.sets import Data
from cnn.kernels import Kernels, Recipe, lay_out, load, take_apart
from cnn.training import engine
from cnn.training.checkpoint import State

# All that could depend on who computes what, and when.
EVENTFUL = {
    "dropout": 0.3,
    "shift": 0.1,
    "rotation": 10.0,
    "averaging": 0.9,
    "weight_decay": 0.1,
    "epochs": 2,
    "batch_size": 12,
    "shards": 4,
}


@pytest.fixture(autouse=True)
def proved():
    """The kernels have proved themselves before a test changes what they do."""
    load()


@pytest.fixture
def data(digits) -> Data:
    return Data(*digits, np.array([*"0123456789"]))


def trained(params, training, validation=None, **more):
    """Return the weights, and the rows of the epochs."""
    histories = []
    network = params.network(training.images.shape[1:], len(training.classes))
    weights = engine.train(
        params, network, training, validation or training, histories.append, **more
    )
    assert [len(history) for history in histories] == list(range(1, params.epochs + 1))
    return weights, histories[-1]


def bytes_of(result) -> list[bytes | None]:
    weights, history = result
    return [None if flat is None else flat.tobytes() for flat in weights] + [history]


def test_any_number_of_threads_gives_the_same_bytes(section, data, monkeypatch):
    found = []
    for cores in (1, 2, 3, 8):
        monkeypatch.setattr(engine, "cores", lambda cores=cores: cores)
        found.append(bytes_of(trained(section(**EVENTFUL), data)))

    assert found[1:] == found[:1] * 3
    assert None not in found[0]
    assert found[0] != bytes_of(trained(section(**EVENTFUL, seed=43), data))


def test_it_returns_from_c_after_each_step_or_after_all_with_the_same_bytes(
    section, data, monkeypatch
):
    took, found, train = [], [], Kernels.train

    def counting(self, *given, **more):
        took[-1].append(len(given[7]))  # its steps' rates
        return train(self, *given, **more)

    monkeypatch.setattr(Kernels, "train", counting)
    for seconds in (0, 1e9):
        took.append([])
        monkeypatch.setattr(engine, "CHUNK", seconds)
        found.append(bytes_of(trained(section(**EVENTFUL), data)))

    assert took == [[1] * 8, [1, 2, 1] * 2]  # of two epochs of 4 steps
    assert found[0] == found[1]


def test_it_takes_as_many_steps_at_once_as_a_chunk_has_time_for(section, data, monkeypatch):
    now, took = [0.0], []

    def slow(self, *given, **more):
        took.append(len(given[7]))
        now[0] += 0.3 * engine.CHUNK * took[-1]
        return np.zeros(took[-1], np.float32), 0

    monkeypatch.setattr(Kernels, "train", slow)
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    trained(section(batch_size=4, epochs=1), data)

    assert took == [1, 2, 3, 3, 1]


@pytest.mark.parametrize(
    ("batch_size", "shards"), [(25, 1), (25, 4), (1, 1), (3, 8), (40, 2), (8192, 64)]
)
def test_an_epoch_sees_every_image_once_whatever_the_batch_size(section, data, batch_size, shards):
    """At a rate of nothing, so that the means over an epoch are those of one network."""
    still = section(learning_rate=0.0, batch_size=batch_size, shards=shards)
    network, kernels = still.network((14, 14, 1), 10), load()
    start = kernels.initial_weights(network, still.seed).weights
    probabilities = kernels.predict(network, start, data.images)[0]
    labels = np.where(np.arange(40) % 5, data.labels, probabilities.argmax(axis=1))
    data = data._replace(labels=labels)

    weights, (row,) = trained(still, data)

    losses = -np.log(probabilities[np.arange(40), labels])
    assert row["loss"] == pytest.approx(losses.mean(), abs=1e-6)
    assert row["accuracy"] == (probabilities.argmax(axis=1) == labels).mean()
    assert (row["validation_loss"], row["validation_accuracy"]) == (
        pytest.approx(row["loss"], abs=1e-6),
        row["accuracy"],
    )
    assert weights.weights.tobytes() == start.tobytes()


def test_an_epoch_counts_an_image_as_often_as_the_order_names_it(section, data):
    network, kernels = section().network((14, 14, 1), 10), load()
    state, rates = kernels.initial_weights(network, 1), np.zeros(2, np.float32)
    probabilities = kernels.predict(network, state.weights, data.images)[0]

    losses, correct = kernels.train(
        network, Recipe(batch_size=25), state, *data[:2], np.full(40, 7), 0, rates, rates
    )

    expected = -np.log(probabilities[7, data.labels[7]])
    np.testing.assert_allclose(losses, [expected] * 2, atol=1e-6)
    assert correct == 40 * (probabilities[7].argmax() == data.labels[7])


def test_each_epoch_has_an_order_of_its_own_from_the_seed(section, data, monkeypatch):
    orders = {}
    for seed in (42, 42, 43):
        orders[seed] = []
        monkeypatch.setattr(
            Kernels,
            "train",
            lambda self, *given, seed=seed, **more: (
                orders[seed].append(given[5]) or (np.zeros(1, np.float32), 0)
            ),
        )
        trained(section(seed=seed, epochs=3, batch_size=40), data)

    for order in (*orders[42], *orders[43]):
        assert sorted(order) == list(range(40))
    assert len({order.tobytes() for order in (*orders[42], *orders[43])}) == 6
    shuffle = np.random.default_rng(42)
    np.testing.assert_array_equal(orders[42], [shuffle.permutation(40) for _ in range(3)])


@pytest.mark.parametrize("shards", [1, 4])
def test_the_moves_of_an_epoch_depend_on_the_seed_the_step_and_the_place_in_the_batch(
    section, data, shards
):
    moves = {"shift": 0.1, "rotation": 20.0, "shear": 0.2, "scale": 0.1, "fill": 0.5}
    moving = section(batch_size=25, shards=shards, epochs=2, **moves)
    kernels, network = load(), moving.network((14, 14, 1), 10)
    shuffle = np.random.default_rng(moving.seed)
    batches = [
        order[first:][:25]
        for order in (shuffle.permutation(40), shuffle.permutation(40))
        for first in (0, 25)
    ]
    expected = kernels.initial_weights(network, moving.seed)
    rates = engine.learning_rates(moving, 4, np.arange(4), kernels)
    sizes = engine.sizes_of_steps(moving, rates, np.arange(4)).astype(np.float32)
    still = Recipe(moving.seed, 25, shards)
    for step, batch in enumerate(batches):
        images = kernels.moved(network, engine.recipe_of(moving), data.images[batch], step)
        one = slice(step, step + 1)
        kernels.train(
            network, still, expected, images, data.labels[batch], np.arange(len(batch)), step,
            rates[one].astype(np.float32), sizes[one],
        )  # fmt: skip

    weights, _ = trained(moving, data)

    assert weights.weights.tobytes() == expected.weights.tobytes()


def test_the_average_of_the_weights_becomes_the_model(section, data):
    """The second step of two is shared evenly with the first: (first + second) / 2."""
    changed = {"batch_size": 64, "schedule": "constant"}

    def result(averaging: float, epochs: int):
        return trained(section(averaging=averaging, epochs=epochs, **changed), data)[0]

    averaged, first, second = result(0.5, 2), result(0.0, 1), result(0.0, 2)

    np.testing.assert_allclose(
        averaged.weights, (first.weights + second.weights) / 2, rtol=0, atol=1e-7
    )
    assert averaged.weights.tobytes() == averaged.averages.tobytes()
    assert (first.averages, second.averages) == (None, None)


def test_until_the_very_end_nothing_is_trained_on_or_judged_by_the_average(section, data):
    averaged, plain = (
        trained(section(averaging=averaging, epochs=3, batch_size=12), data)[1]
        for averaging in (0.9, 0.0)
    )

    last = averaged[2]
    assert averaged[:2] == plain[:2]
    assert (last["loss"], last["accuracy"]) == (plain[2]["loss"], plain[2]["accuracy"])
    assert last["validation_loss"] != plain[2]["validation_loss"]


def test_validation_is_the_mean_over_all_images_of_the_network_as_it_stands(section, data):
    shown, rest = (Data(*(part[where] for part in data[:2]), data.classes)
                   for where in (slice(30), slice(30, None)))  # fmt: skip

    weights, rows = trained(section(epochs=2), shown, rest)

    network = section().network((14, 14, 1), 10)
    probabilities = load().predict(network, weights.weights, rest.images)[0].astype(float)
    losses = -np.log(probabilities[np.arange(10), rest.labels])
    assert rows[-1]["validation_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert rows[-1]["validation_accuracy"] == (probabilities.argmax(axis=1) == rest.labels).mean()
    assert rows[0]["validation_loss"] != rows[1]["validation_loss"]


# Learning rates


def rate(**changed) -> engine.OptimizerParams:
    plain = {
        "learning_rate": 0.01,
        "schedule": "cosine",
        "warmup_share": 0.2,
        "final_share": 0.05,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "weight_decay": 0.0,
        "averaging": 0.0,
    }
    return engine.OptimizerParams(**(plain | changed))


def rates_at(params, steps: int, *wanted: int) -> list[float]:
    return engine.learning_rates(params, steps, np.array(wanted), load()).tolist()


def test_cosine_warms_up_to_the_peak_and_falls_to_the_final_share():
    assert rates_at(rate(learning_rate=0.002), 100, 0, 10, 20, 40, 60, 100) == pytest.approx(
        [
            0.0001,  # a twentieth of the peak, since 0 would waste the step
            0.00105,  # halfway from there to the peak
            0.002,
            0.002 * (0.05 + 0.95 * 0.5 * (1 + 2**-0.5)),  # a quarter of the way down
            0.002 * 0.525,  # half of the way down
            0.0001,
        ],
        rel=1e-6,
    )


def test_without_warm_up_cosine_starts_at_the_peak():
    params = rate(warmup_share=0.0, final_share=0.0)

    assert rates_at(params, 10, 0, 5, 10) == pytest.approx([0.01, 0.005, 0], abs=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_training_of_one_step_has_a_learning_rate(share):
    assert rates_at(rate(warmup_share=share), 1, 0) == pytest.approx([0.01])


def test_a_constant_schedule_is_the_learning_rate():
    assert rates_at(rate(schedule="constant"), 100, 0, 50, 99) == [0.01] * 3
    assert engine.schedule_of(rate(schedule="constant"), 100) == 0.01


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.0), (0.5, 0.9)])
def test_adams_steps_are_corrected_for_the_start_of_its_moments(betas):
    steps = np.array([0, 1, 2, 999, 10**6])
    rates = np.linspace(0.001, 0.002, 5)

    sizes = engine.sizes_of_steps(rate(beta_1=betas[0], beta_2=betas[1]), rates, steps)

    for size, rate_, step in zip(sizes, rates, steps.tolist(), strict=True):
        first, second = (1 - beta ** (step + 1) for beta in betas)
        assert size == pytest.approx(rate_ * math.sqrt(second) / first, rel=1e-12)


def test_what_adam_keeps_is_written_down_as_keras_keeps_it(section, data):
    averaging = section(averaging=0.9, weight_decay=0.1, beta_1=0.8)
    weights, _ = trained(averaging, data)
    network = averaging.network((14, 14, 1), 10)

    adam = engine.adam_of(averaging, network, weights, 2)

    assert adam.learning_rate == engine.schedule_of(averaging, 2)
    assert adam[1:6] == (0.8, 0.999, 0.1, 0.9, 2)
    for arrays, flat in zip((adam.momenta, adam.velocities, adam.averages), weights[1:],
                            strict=True):  # fmt: skip
        assert [array.shape for array in arrays] == network.shapes()
        for array, expected in zip(arrays, take_apart(network, flat), strict=True):
            np.testing.assert_array_equal(array, expected)


# What is no number any more


CURE = "lower train.learning_rate in params.yaml and run 'dvc repro'"


@pytest.mark.parametrize(
    ("changed", "factor"),
    [({"learning_rate": 1e39, "schedule": "constant"}, 1.0), ({"learning_rate": 1.0}, 1e30)],
    ids=["an infinite step", "huge weights"],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_weights_that_are_no_longer_finite_stop_it(section, data, refusal, changed, factor):
    wild = section(epochs=3, **changed)
    network = wild.network((14, 14, 1), 10)
    start = load().initial_weights(network, 1)
    rows = [{"epoch": 1.0}]
    state = State(1, history=rows, variables=[factor * start.weights, *start[1:3]])
    histories = []

    message = refusal(engine.train, wild, network, data, data, histories.append, state=state)

    assert message == f"the weights are no longer finite in epoch 2; {CURE}"
    assert histories == []


def test_a_validation_loss_that_is_not_finite_stops_it(section, data, refusal):
    """Of blank images alone nothing but biases is learned."""
    network = section().network((14, 14, 1), 10)
    start = load().initial_weights(network, 1)
    arrays = take_apart(network, start.weights)
    arrays[-2][:, 0] = 3e38  # of the last layer
    state = State(variables=[lay_out(network, arrays), *start[1:3]])
    blank = data._replace(images=np.zeros_like(data.images))

    message = refusal(engine.train, section(), network, blank, data, state=state)

    assert message == f"the validation loss is nan in epoch 1 at learning rate 0.00525; {CURE}"
