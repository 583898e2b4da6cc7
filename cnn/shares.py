"""What one worker computes of each step, and the tree in which the parts of all are added."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.runtime import keras, tf


class Share(NamedTuple):
    """What part of each step is computed here: that of worker `index` of `of`.

    gather : given this worker's row (p,), returns those of all as (of, p), in their order.
    """

    index: int = 0
    of: int = 1
    gather: Callable[[tf.Tensor], tf.Tensor] | None = None  # not needed by one alone

    def longest(self, seconds: float) -> float:
        """Return the longest of the times that the workers give, the same for all of them.

        What follows the clock must be the same for all: a step that is another one's third of a
        loop waits for ever for one that is the fourth.
        """
        if self.of == 1:
            return seconds
        return float(tf.reduce_max(self.gather(tf.constant([seconds], tf.float32))))

    def places(self, batch_size: int, shards: int) -> NDArray[np.bool_]:
        """Return for each place of a batch whether its image is in one of this worker's shards."""
        shard = np.arange(batch_size) // -(-batch_size // shards)
        return shard % self.of == self.index


ALONE = Share()


def pass_over(network: keras.Sequential, shards: int) -> None:
    """Leave the network's random layers as they are after shards that others compute."""
    for layer in network.layers:
        if shards and (generator := getattr(layer, "seed_generator", None)):
            # A shard takes one seed, and adds 1 to the second of these two.
            state = generator.state
            state.assign(state.value + tf.constant([0, shards], state.dtype))


def tree_sum(parts: tf.Tensor) -> tf.Tensor:
    """Add the rows of a tensor, a power of two, in a fixed binary tree: i with i + k/2, and so on.

    Rows of one tensor, since TensorFlow's graph optimizer merges additions of separate tensors into
    one sum from left to right, which has other bytes.
    """
    rows = parts.shape[0]
    while rows > 1:
        rows //= 2
        parts = parts[:rows] + parts[rows:]
    return parts[0]


def on_gpus(shards: int) -> tf.distribute.MirroredStrategy | None:
    """Return a strategy for as many GPUs of this machine as can share the shards, None for one."""
    gpus = tf.config.list_logical_devices("GPU")
    number = 1
    while 2 * number <= len(gpus) and shards % (2 * number) == 0:
        number *= 2
    return (
        tf.distribute.MirroredStrategy([gpu.name for gpu in gpus[:number]]) if number > 1 else None
    )


def on_each(
    strategy: tf.distribute.MirroredStrategy,
    step: Callable[[tf.Tensor, Share], tuple[tf.Tensor, tf.Tensor]],
    batch: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what `step` gives, each device of a strategy computing its share as a worker does."""

    def replica() -> tuple[tf.Tensor, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        index = int(tf.get_static_value(context.replica_id_in_sync_group))
        return step(
            batch,
            Share(
                index,
                strategy.num_replicas_in_sync,
                lambda row: context.all_gather(row[tf.newaxis], axis=0),
            ),
        )

    # All have added the same tree.
    loss, right = strategy.run(replica)
    return tuple(strategy.experimental_local_results(each)[0] for each in (loss, right))
