"""One step of training, on shards of a batch or on the whole of it.

Both give the same numbers but for rounding: `plain_step` is what Keras' own `train_on_batch` does,
`sharded_step` does it on parts of the batch, side by side on as many cores as there are, with fewer
passes over memory. What it does not know is left to Keras' layers and to Keras' optimizer; what
neither can honour, `check` refuses.
"""

from __future__ import annotations

from cnn.adam import apply_adam, is_plain_adam
from cnn.errors import UserError
from cnn.runtime import keras, tf
from cnn.shares import ALONE, Share, pass_over, tree_sum

# Layers whose output for an image depends on that image alone, so that a batch may be split.
PER_IMAGE = (
    "Activation",
    "AveragePooling2D",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "LayerNormalization",
    "LeakyReLU",
    "MaxPooling2D",
    "ReLU",
    "SeparableConv2D",
    "Softmax",
    "SpatialDropout2D",
)
Taken = tuple["tf.Tensor", "tf.Tensor"]  # loss before a step, number of images that were right


def check(network: keras.Model, shards: int) -> None:
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
        kind = type(layer).__name__
        if shards > 1 and (kind not in PER_IMAGE or layer.activity_regularizer is not None):
            raise UserError(
                f"layer '{layer.name}' ({kind}) is not known to treat each image by itself; "
                "set train.shards to 1"
            )
    if shards > 1:
        optimizer = network.optimizer
        for found, what in (
            (not network.trainable_variables, "the network has no weights to train"),
            (loss.get_config()["ignore_class"] is not None, "the loss ignores a class"),
            (
                hasattr(optimizer, "inner_optimizer") or optimizer.loss_scale_factor is not None,
                "the optimizer scales the loss",
            ),
        ):
            if found:
                raise UserError(f"{what}; set train.shards to 1")


def is_deferred(layer: keras.layers.Layer, after: keras.layers.Layer | None) -> bool:
    """Tell whether a layer's bias and ReLU may be taken after the pooling that follows at once."""
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
    """Return what a convolution gives before its activation; in float32, before its bias too."""
    images, kernel, bias = (
        tf.cast(value, layer.compute_dtype)
        for value in (images, layer.kernel.value, layer.bias.value)
    )
    values = tf.nn.conv2d(images, kernel, layer.strides, layer.padding.upper())
    return values if layer.compute_dtype == "float32" else tf.nn.bias_add(values, bias)


def activate(layer: keras.layers.Conv2D, values: tf.Tensor) -> tf.Tensor:
    """Take the pooled values of `convolve` through what it left out."""
    if layer.compute_dtype == "float32":
        values = tf.nn.bias_add(values, layer.bias.value)
    return tf.nn.relu(values)


def forward(network: keras.Sequential, images: tf.Tensor) -> tf.Tensor:
    """Return `network(images, training=True)` to the bit, a pooling before bias and ReLU.

    Neither changes the order of values, so the greatest of four stays the greatest, and its
    gradient goes the same way. After the pooling a quarter of the values is left to pass through
    them, there and back; and a bias' gradient is no longer summed by oneDNN, whose plain loop took
    6 % of a step. In bfloat16 it still is: TensorFlow's own sum is a coarse one there.
    """
    values, layers = images, network.layers
    for before, layer, after in zip([None, *layers], layers, [*layers[1:], None], strict=False):
        if is_deferred(layer, after):
            values = convolve(layer, values)
        else:
            values = layer(values, training=True)
        if before is not None and is_deferred(before, layer):
            values = activate(before, values)
    return values


def total_loss(network: keras.Model, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Return the mean loss of a batch, with what regularizers of the layers add to it."""
    return tf.add_n([network.loss(labels, probabilities), *network.losses])


def apply(network: keras.Model, gradients: list[tf.Tensor]) -> None:
    """Take the optimizer's step, by the kernel of `cnn.adam` where that knows the optimizer."""
    if is_plain_adam(network):
        apply_adam(network.optimizer, gradients, network.trainable_variables)
    else:
        network.optimizer.apply(gradients, network.trainable_variables)


def plain_step(network: keras.Model, images: tf.Tensor, labels: tf.Tensor) -> Taken:
    """Take one step as Keras does, on the whole batch: the oracle of the sharded one."""
    optimizer, variables = network.optimizer, network.trainable_variables
    with tf.GradientTape() as tape:
        probabilities = network(images, training=True)
        loss = total_loss(network, labels, probabilities)
        scaled = optimizer.scale_loss(loss)
    optimizer.apply(tape.gradient(scaled, variables), variables)
    return loss, tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == labels)


def gradients_of(tape: tf.GradientTape, loss: tf.Tensor, network: keras.Model) -> list[tf.Tensor]:
    """Return the gradient of each trainable weight, zeros where the loss does not depend on it."""
    weights = [variable.value for variable in network.trainable_variables]
    return tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def shard_gradient(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Return what one shard contributes: gradients, each (p,), loss and number of correct images.

    The loss is the sum of the images' losses times their weights, float32 (s,): one over the size
    of the batch, or 0 for what only fills up a short batch.
    """
    with tf.GradientTape() as tape:
        probabilities = forward(network, images)
        loss = tf.reduce_sum(network.loss.call(labels, probabilities) * weights)
    gradients = gradients_of(tape, loss, network)
    correct = (tf.argmax(probabilities, axis=1) == labels) & (weights > 0)
    return (
        [tf.reshape(gradient, [-1]) for gradient in gradients],
        loss,
        tf.math.count_nonzero(correct),
    )


def sharded_step(
    network: keras.Model,
    shards: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    share: Share = ALONE,
) -> Taken:
    """Take one step on shards of a batch, each (images, labels, weights), side by side.

    Every operation runs on one thread, so what is added in which order depends on the number of
    shards and on nothing else: not on how many cores there are. Nor on the number of workers:
    worker w of W has the shards w, w + W and so on, which are a branch of the tree; its upper part
    is added on each worker, of what all have gathered.
    """
    gradients, losses, correct = [], [], []
    for number, shard in enumerate(shards):
        pass_over(network, share.of - 1 if number else share.index)
        for results, result in zip(
            (gradients, losses, correct), shard_gradient(network, *shard), strict=True
        ):
            results.append(result)
    pass_over(network, share.of - 1 - share.index)
    variables = network.trainable_variables
    sizes = [variable.shape.num_elements() for variable in variables]
    # All pieces at once, and not a row a shard and then the rows: 0.9 MB a shard copied once less.
    pieces = tf.concat([piece for shard in gradients for piece in shard], axis=0)
    branch = tree_sum(tf.reshape(pieces, [len(shards), sum(sizes)]))
    loss, right = tree_sum(tf.stack(losses)), tf.add_n(correct)
    if share.of > 1:
        # A number of images is exact in float32 up to 2²⁴.
        row = tf.concat([branch, [loss, tf.cast(right, tf.float32)]], axis=0)
        tree = tree_sum(tf.ensure_shape(share.gather(row), [share.of, *row.shape]))
        branch, loss, right = tree[:-2], tree[-2], tf.cast(tree[-1], tf.int64)
    total = [
        tf.reshape(part, variable.shape)
        for part, variable in zip(tf.split(branch, sizes), variables, strict=True)
    ]
    if network.losses:  # of weights: once a step, not once a shard
        with tf.GradientTape() as tape:
            penalty = tf.add_n(network.losses)
        extra = gradients_of(tape, penalty, network)
        total = [a + b for a, b in zip(total, extra, strict=True)]
        loss += penalty
    apply(network, total)
    return loss, right
