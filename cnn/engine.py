"""Train a compiled Keras network to the same bytes on every run, an epoch as one graph."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from cnn.augmentation import AugmentationParams, augment
from cnn.npz import ALIGNMENT
from cnn.runtime import keras, tf
from cnn.shares import ALONE, Share, on_each
from cnn.steps import Taken, check, plain_step, sharded_step, total_loss

VALIDATION_BATCH = 500  # images; larger ones are no faster and need more memory
SIDE_BY_SIDE = 4  # batches in validation; more would take more memory


def in_tensorflow(array: NDArray) -> tf.Tensor:
    """Return a tensor of the same values that TensorFlow does not have to copy.

    tf.constant takes twice the array's memory for itself while it copies. DLPack hands numpy's own
    memory over; TensorFlow's kernels want it aligned, which numpy does not promise. What is mapped
    from a file of ours is: it stays there.
    """
    aligned = array
    if array.flags.writeable or not array.flags.c_contiguous or array.ctypes.data % ALIGNMENT:
        memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        aligned = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        aligned[...] = array
    # The same memory, said to be writable: numpy hands nothing else over. TensorFlow writes to no
    # tensor that somebody holds, and the kernel would end the process if it did.
    told = aligned.__array_interface__ | {"data": (aligned.ctypes.data, False)}
    same = np.asarray(SimpleNamespace(__array_interface__=told, owner=aligned))
    return tf.experimental.dlpack.from_dlpack(same.__dlpack__())


def compiled_steps(
    network: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    batch_size: int,
    shards: int,
    seed: int = 0,
    moves: AugmentationParams | None = None,
    share: Share = ALONE,
    strategy: tf.distribute.MirroredStrategy | None = None,
) -> tf.types.experimental.PolymorphicFunction:
    """Return a function that trains some or all steps of an epoch.

    All steps are one graph: gathering the batches from a constant inside it is as fast with
    deterministic operations as without, where a loop over tf.data is not, and no step returns to
    Python. The last batch of an epoch may be short; every image is seen once.

    The function takes a permutation of range(n), from which and up to which place of it to train,
    multiples of the batch size or n, and what it returns: the sum of the images' losses and how
    many were right, of the epoch so far, float32 and int64. Where an epoch is parted changes no
    byte.

    Parameters
    ----------
    network : compiled; see `check` for what it may be.
    images : float32 (n, h, w, c).
    labels : int64 (n,).
    shards : a power of two of parts into which each batch is split; 1 is Keras' own step.
    seed : of the moves of the augmentation; None for `moves` leaves the images as they are.
    share : the part of each step that this worker computes; together they give the same bytes.
    strategy : of several GPUs, in whose scope the network was built; they share the shards instead.

    Raises
    ------
    UserError
        The network is one that would not be trained as Keras trains it.
    """
    check(network, shards)
    optimizer = network.optimizer
    optimizer.build(network.trainable_variables)
    size = -(-batch_size // shards)

    def moved(seen: tf.Tensor, shard: int) -> tf.Tensor:
        if moves is None:
            return seen
        number = tf.cast(optimizer.iterations, tf.int64) * shards + shard
        return augment(seen, tf.stack([seed, number]), moves)

    def step(batch: tf.Tensor, share: Share = share) -> Taken:
        if shards == 1:
            return plain_step(network, moved(tf.gather(images, batch), 0), tf.gather(labels, batch))
        count = tf.size(batch)
        filled = tf.ensure_shape(tf.pad(batch, [[0, size * shards - count]]), [size * shards])
        weights = tf.cast(tf.range(size * shards) < count, tf.float32) / tf.cast(count, tf.float32)
        parts = []
        for shard in range(share.index, shards, share.of):
            rows = slice(shard * size, (shard + 1) * size)
            seen = moved(tf.gather(images, filled[rows]), shard)
            parts.append((seen, tf.gather(labels, filled[rows]), weights[rows]))
        return sharded_step(network, parts, share)

    place, float32 = tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.float32)

    # A loop in TensorFlow's words: without autograph it is traced sooner, and no source file of
    # autograph's is left in TMPDIR by a process that is killed.
    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.int64), place, place, float32, place],
        autograph=False,
    )
    def steps(order, start, stop, loss_sum, right):
        def take(first, loss_sum, right):
            batch = order[first : tf.minimum(first + batch_size, stop)]
            loss, correct = on_each(strategy, step, batch) if strategy else step(batch)
            loss_sum += loss * tf.cast(tf.size(batch), tf.float32)
            return first + batch_size, loss_sum, right + correct

        return tf.while_loop(lambda first, *_: first < stop, take, (start, loss_sum, right))[1:]

    return steps


def compiled_epoch(
    network: keras.Model, images: tf.Tensor, *args: object, **kwargs: object
) -> Callable[[NDArray[np.int64]], tuple[float, float]]:
    """Return a function that takes a permutation of range(n) and trains one epoch in that order.

    It returns the mean loss and the accuracy over the epoch. The parameters are those of
    `compiled_steps`.
    """
    steps, n = compiled_steps(network, images, *args, **kwargs), images.shape[0]
    return lambda order: means(*steps(order, 0, n, 0.0, 0), n)


def means(loss_sum: tf.Tensor, correct: tf.Tensor, n: int) -> tuple[float, float]:
    """Return the mean loss and the accuracy over n images, with the precision of float32."""
    return tuple(float(np.float32(value) / np.float32(n)) for value in (loss_sum, correct))


def compiled_validation(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tf.types.experimental.PolymorphicFunction:
    """Return a function that gives the loss and accuracy of the network as it stands.

    As Model.evaluate, which would trace its own step and return to Python for every batch: half a
    second more in the first epoch, a tenth in every other. The values are float32 scalars.
    """
    n = images.shape[0]

    def measure(first, loss_sum, right):
        actual = labels[first : first + VALIDATION_BATCH]
        probabilities = network(images[first : first + VALIDATION_BATCH], training=False)
        loss = total_loss(network, actual, probabilities)
        loss_sum += loss * tf.cast(tf.size(actual), tf.float32)
        right += tf.math.count_nonzero(tf.argmax(probabilities, axis=1) == actual)
        return first + VALIDATION_BATCH, loss_sum, right

    @tf.function(autograph=False)
    def validation():
        _, loss_sum, right = tf.while_loop(
            lambda first, *_: first < n,
            measure,
            (0, tf.constant(0.0), tf.constant(0, tf.int64)),
            parallel_iterations=SIDE_BY_SIDE,  # since each operation runs on one thread
        )
        return loss_sum / n, tf.cast(right, tf.float32) / n

    return validation
