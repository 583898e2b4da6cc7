"""The network has the seed's layers for MNIST, fits any form of image, and learns at a rate."""

import numpy as np
import pytest

from cnn import archive, engine, model, runtime
from cnn.params import load
from cnn.runtime import keras
from stages.train import TrainParams
from tests.clones import call_uncapped

MNIST = (28, 28, 1)


def form(**changes) -> model.NetworkParams:
    small = {"filters": (4, 8), "kernel_size": 3, "dense_units": 16, "dropout": 0.0}
    return model.NetworkParams(**(small | changes))


def rate(**changes) -> model.OptimizerParams:
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
    return model.OptimizerParams(**(plain | changes))


@pytest.fixture
def default(pytestconfig):
    """Section `train` as it is committed."""
    return load(pytestconfig.rootpath / "params.yaml", "train", TrainParams)


def test_the_defaults_have_225034_parameters(tf, default):
    assert model.build(default, MNIST, 10).count_params() == 225_034


def test_the_layers_are_the_seven_of_the_seed_in_their_order(tf, default):
    network = model.build(default, MNIST, 10)

    assert [type(layer).__name__ for layer in network.layers] == [
        "Conv2D",
        "MaxPooling2D",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "Dense",
        "Dense",
    ]
    activations = [getattr(layer, "activation", None) for layer in network.layers]
    assert [function.__name__ for function in activations if function] == [
        "relu",
        "relu",
        "relu",
        "softmax",
    ]
    assert (network.input_shape, network.output_shape) == ((None, 28, 28, 1), (None, 10))


def test_dropout_stands_between_flatten_and_dense(tf):
    network = model.build(form(dropout=0.3), MNIST, 10)

    assert [layer.name for layer in network.layers[-4:-1]] == ["flatten", "dropout", "dense"]
    assert network.get_layer("dropout").rate == 0.3


@pytest.mark.parametrize(
    ("shape", "kernel_size", "classes", "padding"),
    [
        ((8, 8, 1), 5, 2, "same"),  # (8 - 4) / 2 - 4 would leave nothing
        ((10, 10, 3), 3, 26, "valid"),  # 10 - 2 = 8, 4, 2, 1: just enough
        ((9, 9, 1), 3, 2, "same"),  # 9 - 2 = 7, 3, 1, 0: just not
        ((16, 16, 1), 5, 100, "valid"),
        ((15, 40, 3), 5, 3, "same"),
        ((28, 28, 1), 1, 10, "valid"),
        ((8, 256, 3), 1, 100, "valid"),
    ],
)
def test_images_of_any_form_get_a_network(tf, shape, kernel_size, classes, padding):
    network = model.build(form(kernel_size=kernel_size), shape, classes)

    assert network.get_layer("convolution_1").padding == padding
    assert network.get_layer("convolution_2").padding == padding
    probabilities = np.asarray(network(np.zeros((2, *shape), np.float32)))
    assert probabilities.shape == (2, classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_cosine_warms_up_to_the_peak_and_falls_to_the_final_share(tf):
    schedule = model.learning_rate_schedule(rate(learning_rate=0.002), steps=100)

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


def test_without_warm_up_cosine_starts_at_the_peak(tf):
    schedule = model.learning_rate_schedule(rate(warmup_share=0.0, final_share=0.0), steps=10)

    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(5)) == pytest.approx(0.005)
    assert float(schedule(10)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_training_of_one_step_has_a_learning_rate(tf, share):
    schedule = model.learning_rate_schedule(rate(warmup_share=share), steps=1)

    assert float(schedule(0)) == pytest.approx(0.01)


def test_a_constant_schedule_is_the_learning_rate():
    assert model.learning_rate_schedule(rate(schedule="constant"), steps=100) == 0.01


def test_every_parameter_of_the_optimizer_reaches_it(tf):
    network = model.build(form(), MNIST, 10)
    settings = {"beta_1": 0.7, "beta_2": 0.8, "weight_decay": 0.1, "averaging": 0.5}

    model.compile_for(network, rate(schedule="constant", **settings), steps=10)

    adam = network.optimizer
    assert (adam.beta_1, adam.beta_2, adam.weight_decay) == (0.7, 0.8, 0.1)
    assert (adam.use_ema, adam.ema_momentum, adam.ema_overwrite_frequency) == (True, 0.5, None)
    assert float(adam.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize("n", [1, 8, 20])
def test_what_is_predicted_is_what_keras_predicts_whatever_the_last_batch(tf, monkeypatch, n):
    monkeypatch.setattr(model, "PREDICTION_BATCH", 8)
    network = model.build(form(dropout=0.5), (9, 12, 3), 4)
    images = np.random.default_rng(0).random((n, 9, 12, 3), np.float32)

    probabilities = model.predict(network, images)

    assert (probabilities.dtype, probabilities.shape) == (np.float32, (n, 4))
    np.testing.assert_allclose(probabilities, network.predict(images, verbose=0), atol=1e-6)


def save_and_convert_what_was_trained_in_bfloat16(path: str) -> None:
    runtime.start_tensorflow(42, "native", "mixed_bfloat16")
    tf = runtime.tf
    rng = np.random.default_rng(0)
    images, labels = rng.random((40, 12, 12, 1), np.float32), rng.integers(0, 3, 40)
    network = model.build(form(dropout=0.3), (12, 12, 1), 3)
    model.compile_for(network, rate(weight_decay=0.1, averaging=0.9), steps=10)
    engine.compiled_epoch(network, images, labels, 10, 2)(np.arange(40))
    plain = model.in_float32(network)  # whatever the policy is
    keras.config.set_dtype_policy("float32")
    archive.save(plain, path)
    loaded = archive.load(path, (12, 12, 1), 3)
    whole = keras.models.load_model(path)

    assert network.layers[0].compute_dtype == "bfloat16"
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    for other in (plain, loaded, whole):
        for a, b in zip(other.get_weights(), network.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert int(whole.optimizer.iterations) == 4
    assert whole.optimizer.get_config() == network.optimizer.get_config()
    for a, b in zip(whole.optimizer.variables, network.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=b.path)

    interpreter = tf.lite.Interpreter(
        model_content=tf.lite.TFLiteConverter.from_keras_model(loaded).convert()
    )
    (given,), (told,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    found = interpreter.get_tensor(told["index"])
    np.testing.assert_allclose(found, model.predict(loaded, images), atol=1e-6)


def test_what_is_saved_of_a_training_in_bfloat16_is_float32_goes_on_and_converts(tmp_path):
    path = str(tmp_path / "cnn.keras")
    call_uncapped(save_and_convert_what_was_trained_in_bfloat16, tmp_path, path)
