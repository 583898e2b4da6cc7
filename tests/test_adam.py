"""Adam's step by one kernel per variable is Keras' own, and is taken for Keras' own Adam alone."""

import numpy as np
import pytest

from cnn.adam import apply_adam, is_plain_adam


@pytest.fixture
def network(tf):
    """Build a network of two layers with an optimizer, always with the same weights."""

    def call(optimizer, **dense):
        import keras

        keras.utils.set_random_seed(3)
        built = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(2, **dense)]
        )
        built.compile(optimizer, "mse")
        optimizer.build(built.trainable_variables)
        return built

    return call


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-3},
        {"weight_decay": 0.1},
        {"use_ema": True, "ema_momentum": 0.9},
    ],
    ids=["default", "betas", "decay", "average"],
)
def test_three_steps_are_those_of_keras(tf, network, settings):
    import keras

    ours, theirs = (network(keras.optimizers.Adam(0.01, **settings)) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(3):
        gradients = [
            tf.constant(rng.normal(size=variable.shape), tf.float32)
            for variable in ours.trainable_variables
        ]
        apply_adam(ours.optimizer, gradients, ours.trainable_variables)
        theirs.optimizer.apply(gradients, theirs.trainable_variables)

    assert is_plain_adam(ours)
    assert int(ours.optimizer.iterations) == 3
    for mine, other in (
        (ours.trainable_variables, theirs.trainable_variables),
        (ours.optimizer.variables, theirs.optimizer.variables),
    ):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=a.path)


def test_without_variables_no_step_is_taken_as_in_keras(network):
    import keras

    frozen = network(keras.optimizers.Adam())

    apply_adam(frozen.optimizer, [], [])

    assert int(frozen.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"clipnorm": 1.0},
        {"clipvalue": 1.0},
        {"global_clipnorm": 1.0},
        {"amsgrad": True},
        {"gradient_accumulation_steps": 2},
        {"loss_scale_factor": 2.0},
        {"use_ema": True, "ema_overwrite_frequency": 2},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_what_it_does_not_know_is_left_to_keras(network, settings):
    import keras

    assert not is_plain_adam(network(keras.optimizers.Adam(**settings)))


def test_another_optimizer_and_a_constraint_are_left_to_keras(network):
    import keras

    assert not is_plain_adam(network(keras.optimizers.AdamW()))
    assert not is_plain_adam(network(keras.optimizers.SGD()))
    assert not is_plain_adam(network(keras.optimizers.Adam(), kernel_constraint="non_neg"))
