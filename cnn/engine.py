"""Train a compiled Keras network to the same bytes on every run, an epoch as one graph.

Two steps give the same numbers: `plain_step` is what Keras' own `train_on_batch` does, `fast_step`
does it with fewer passes over memory. What the fast one does not know is left to Keras' layers and
to Keras' optimizer; what neither can honour, `check` refuses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cnn.adam import apply_adam, is_plain_adam
from cnn.augmentation import AugmentationParams, augment
from cnn.errors import UserError
from cnn.runtime import keras, tf

ALIGNMENT = 64  # bytes, what the widest vector instructions want
VALIDATION_BATCH = 500  # images; larger ones are no faster and need more memory


def in_tensorflow(array: NDArray) -> tf.Tensor:
    """Return a tensor of the same values that TensorFlow does not have to copy.

    tf.constant takes twice the array's memory for itself while it copies. DLPack hands numpy's own
    memory over; TensorFlow's kernels want it aligned, which numpy does not promise.
    """
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    aligned = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return tf.experimental.dlpack.from_dlpack(aligned.__dlpack__())


def check(network: keras.Model) -> None:
    """Refuse a network that the steps here would train in another way than Keras.

    Raises
    ------
    UserError
        Names what is not honoured, and what is.
    """
    mends = "change cnn/model.py, or train it with Keras' own fit"
    if type(network) is not keras.Sequential:
        raise UserError(f"the network is a {type(network).__name__}, not a Sequential; {mends}")
    if not network.built:
        raise UserError(f"the network has no Input layer; {mends}")
    given = network.inputs[0]
    if len(given.shape) != 4 or given.dtype != "float32":
        raise UserError(
            f"the network takes {given.dtype} {given.shape}, not float32 (n, h, w, c); {mends}"
        )
    if network.get_compile_config().get("loss_weights") is not None:
        raise UserError(f"loss_weights are given; {mends}")
    loss = network.loss
    if type(loss) is not keras.losses.SparseCategoricalCrossentropy or (
        (loss.reduction, loss.dtype) != ("sum_over_batch_size", "float32")
    ):
        raise UserError(
            "the loss is not SparseCategoricalCrossentropy() with its mean over the batch, in "
            f"float32; {mends}"
        )
    precision = network.layers[-1].compute_dtype
    if precision != "float32":
        raise UserError(f"the last layer computes in {precision}, not float32; {mends}")
    for layer in network.layers:
        foreign = not type(layer).__module__.startswith("keras.")
        if foreign or isinstance(layer, keras.Model | keras.layers.Lambda):
            raise UserError(f"layer '{layer.name}' is no layer of Keras' own; {mends}")


def is_deferred(layer: keras.layers.Layer, after: keras.layers.Layer | None) -> bool:
    """Tell whether a layer's ReLU may be taken after the pooling that follows at once."""
    return (
        type(layer) is keras.layers.Conv2D
        and type(after) is keras.layers.MaxPooling2D
        and layer.activation is keras.activations.relu
        and layer.activity_regularizer is None
        and (layer.use_bias, layer.groups, layer.data_format) == (True, 1, "channels_last")
        and layer.padding in ("valid", "same")
        and set(layer.dilation_rate) == {1}
        and not layer.lora_enabled
        and layer.quantization_mode is None
    )


def convolve(layer: keras.layers.Conv2D, images: tf.Tensor) -> tf.Tensor:
    """Return what a convolution gives before its activation."""
    images, kernel, bias = (
        tf.cast(value, layer.compute_dtype)
        for value in (images, layer.kernel.value, layer.bias.value)
    )
    values = tf.nn.conv2d(images, kernel, layer.strides, layer.padding.upper())
    return tf.nn.bias_add(values, bias)


def forward(network: keras.Sequential, images: tf.Tensor) -> tf.Tensor:
    """Return `network(images, training=True)` to the bit, a ReLU after the pooling that follows it.

    ReLU never changes the order of values, so the greatest of four stays the greatest, and its
    gradient goes the same way. After the pooling a quarter of the values is left to pass through
    it, there and back: 6 % less time a step in bfloat16.
    """
    values, layers = images, network.layers
    for before, layer, after in zip([None, *layers], layers, [*layers[1:], None], strict=False):
        if is_deferred(layer, after):
            values = convolve(layer, values)
        else:
            values = layer(values, training=True)
        if before is not None and is_deferred(before, layer):
            values = tf.nn.relu(values)
    return values


def total_loss(network: keras.Model, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Return the mean loss of a batch, with what regularizers of the layers add to it."""
    return tf.add_n([network.loss(labels, probabilities), *network.losses])


def plain_step(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Take one step as Keras does; return the loss before it and the probabilities."""
    optimizer, variables = network.optimizer, network.trainable_variables
    with tf.GradientTape() as tape:
        probabilities = network(images, training=True)
        loss = total_loss(network, labels, probabilities)
        scaled = optimizer.scale_loss(loss)
    optimizer.apply(tape.gradient(scaled, variables), variables)
    return loss, probabilities


def fast_step(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Do what `plain_step` does, in less time where network and optimizer are of a known kind."""
    optimizer, variables = network.optimizer, network.trainable_variables
    if not is_plain_adam(network):
        return plain_step(network, images, labels)
    with tf.GradientTape() as tape:
        probabilities = forward(network, images)
        loss = total_loss(network, labels, probabilities)
    apply_adam(optimizer, tape.gradient(loss, variables), variables)
    return loss, probabilities


def compiled_epoch(
    network: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    batch_size: int,
    seed: int = 0,
    moves: AugmentationParams | None = None,
    step: Callable = fast_step,
) -> tf.types.experimental.PolymorphicFunction:
    """Return a function that takes a permutation of range(n) and trains one epoch in that order.

    The whole epoch is one graph: gathering the batches from a constant inside it is as fast with
    deterministic operations as without, where a loop over tf.data is not, and no step returns to
    Python. The last batch may be short; every image is seen once. The function returns the mean
    loss and the accuracy over the epoch, float32 scalars.

    Parameters
    ----------
    network : compiled; see `check` for what it may be.
    images : float32 (n, h, w, c).
    labels : int64 (n,).
    seed : of the moves of the augmentation; None for `moves` leaves the images as they are.
    step : `fast_step` or `plain_step`.

    Raises
    ------
    UserError
        The network is one that would not be trained as Keras trains it.
    """
    check(network)
    n, optimizer = images.shape[0], network.optimizer
    optimizer.build(network.trainable_variables)

    @tf.function
    def epoch(order):
        loss_sum = tf.constant(0.0)
        right = tf.constant(0, tf.int64)
        for first in tf.range(0, n, batch_size):
            batch = order[first : first + batch_size]
            seen, actual = tf.gather(images, batch), tf.gather(labels, batch)
            if moves is not None:
                number = tf.cast(optimizer.iterations, tf.int64)
                seen = augment(seen, tf.stack([seed, number]), moves)
            loss, probabilities = step(network, seen, actual)
            loss_sum += loss * tf.cast(tf.size(batch), tf.float32)
            right += tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == actual)
        return loss_sum / n, tf.cast(right, tf.float32) / n

    return epoch


def compiled_validation(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tf.types.experimental.PolymorphicFunction:
    """Return a function that gives the loss and accuracy of the network as it stands.

    As Model.evaluate, which would trace its own step and return to Python for every batch: half a
    second more in the first epoch, a tenth in every other. The values are float32 scalars.
    """
    n = images.shape[0]

    @tf.function
    def validation():
        loss_sum = tf.constant(0.0)
        right = tf.constant(0, tf.int64)
        for first in tf.range(0, n, VALIDATION_BATCH):
            # Side by side, batches save 0.02 s in all, and take up to 70 MB more.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            actual = labels[first : first + VALIDATION_BATCH]
            probabilities = network(images[first : first + VALIDATION_BATCH], training=False)
            loss = total_loss(network, actual, probabilities)
            loss_sum += loss * tf.cast(tf.size(actual), tf.float32)
            right += tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == actual)
        return loss_sum / n, tf.cast(right, tf.float32) / n

    return validation
