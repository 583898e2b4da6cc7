"""The network: how it is built, compiled for training, and asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cnn.params import Section
from cnn.runtime import cores, keras, tf

PREDICTION_BATCH = 500  # images; larger ones are no faster and need more memory
Filters = Annotated[int, Field(ge=1, le=1024)]


class NetworkParams(Section):
    """What `build` takes; a part of section `train`."""

    filters: tuple[Filters, Filters] = Field(strict=False)  # YAML has lists, not tuples
    kernel_size: int = Field(ge=1, le=5)
    dense_units: int = Field(ge=1, le=4096)
    dropout: float = Field(ge=0, lt=1)


class OptimizerParams(Section):
    """What `compile_for` takes; a part of section `train`."""

    learning_rate: float = Field(gt=0, le=1)
    schedule: Literal["constant", "cosine"]
    warmup_share: float = Field(ge=0, lt=1)
    final_share: float = Field(ge=0, le=1)
    beta_1: float = Field(ge=0, lt=1)
    beta_2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    averaging: float = Field(ge=0, lt=1)


def build(params: NetworkParams, image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Return the untrained seven-layer CNN: images (n, h, w, c) to probabilities (n, classes).

    For MNIST, with 32 and 64 filters of 3 x 3 and 128 units, it has 225,034 parameters. Layers are
    named, since Keras' own names count what the process built before. The softmax computes in
    float32 whatever the precision, so that probabilities sum to 1. Dropout, where it is not 0, is
    an eighth layer, after the flattening. Images so small that two convolutions and poolings would
    leave nothing of them are padded with zeros at each convolution.
    """
    layers = keras.layers
    side, size = min(image_shape[:2]), params.kernel_size
    padding = "valid" if ((side - size + 1) // 2 - size + 1) // 2 >= 1 else "same"
    drop = [layers.Dropout(params.dropout, name="dropout")] if params.dropout else []

    def convolution(number: int) -> keras.layers.Layer:
        filters, name = params.filters[number - 1], f"convolution_{number}"
        return layers.Conv2D(filters, size, padding=padding, activation="relu", name=name)

    return keras.Sequential(
        [
            keras.Input(image_shape, name="images"),
            convolution(1),
            layers.MaxPooling2D(2, name="pooling_1"),
            convolution(2),
            layers.MaxPooling2D(2, name="pooling_2"),
            layers.Flatten(name="flatten"),
            *drop,
            layers.Dense(params.dense_units, activation="relu", name="dense"),
            layers.Dense(classes, activation="softmax", dtype="float32", name="probabilities"),
        ],
        name="cnn",
    )


def learning_rate_schedule(
    params: OptimizerParams, steps: int
) -> float | keras.optimizers.schedules.CosineDecay:
    """Return the learning rate over `steps` steps, as Adam takes it.

    Cosine: linear from near 0 to the peak over the first `warmup_share` of the steps, then half a
    cosine down to `final_share` of the peak (Loshchilov and Hutter 2017, SGDR, without restarts).
    """
    peak = params.learning_rate
    if params.schedule == "constant":
        return peak
    warmup = round(steps * params.warmup_share)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / warmup if warmup else peak,  # 0 would waste the first step
        decay_steps=max(steps - warmup, 1),
        alpha=params.final_share,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def compile_for(network: keras.Model, params: OptimizerParams, steps: int) -> None:
    """Compile `network` with Adam (Kingma and Ba 2015) and cross-entropy for `steps` steps."""
    network.compile(
        optimizer=keras.optimizers.Adam(
            learning_rate_schedule(params, steps),
            beta_1=params.beta_1,
            beta_2=params.beta_2,
            weight_decay=params.weight_decay or None,
            use_ema=params.averaging > 0,
            ema_momentum=params.averaging,
            name="adam",  # Keras' own name counts the optimizers that the process made before
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )


def in_float32(network: keras.Sequential) -> keras.Sequential:
    """Return the same network, weights and optimizer state, with a float32 policy.

    In mixed precision the weights are float32 anyway. A file that says otherwise computes in
    bfloat16 wherever it is loaded, and converters to TFLite, LiteRT and ONNX refuse it.
    """
    config, optimizer = network.get_config(), network.optimizer
    for layer in config["layers"]:
        layer["config"]["dtype"] = "float32"
    plain = keras.Sequential.from_config(config)
    plain.compile(
        type(optimizer).from_config(optimizer.get_config()), network.loss, metrics=["accuracy"]
    )
    plain.optimizer.build(plain.trainable_variables)
    # With the states that dropout draws from, so that a training goes on as it would have.
    targets = [*plain.variables, *plain.optimizer.variables]
    for target, source in zip(targets, [*network.variables, *optimizer.variables], strict=True):
        target.assign(source)
    return plain


def predict(network: keras.Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the network's probabilities, float32 (n, k), of float32 (n, h, w, c) images.

    As Model.predict, which reads the images through tf.data and logs that they have come to an end.
    """
    signature = [tf.TensorSpec([None, *images.shape[1:]], tf.float32)]
    ask = tf.function(
        lambda batch: network(batch, training=False), input_signature=signature, autograph=False
    )
    parts = [images[i : i + PREDICTION_BATCH] for i in range(0, len(images), PREDICTION_BATCH)]
    with ThreadPoolExecutor(cores()) as pool:  # each operation runs on one thread
        return np.concatenate([part.numpy() for part in pool.map(ask, parts)])
