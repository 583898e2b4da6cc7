"""The network that the kernels compute: its layers, their names and the shapes of their weights."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from cnn.errors import UserError

# What a network may have at most; each has one convolution and one dense layer at least.
MOST_CONVOLUTIONS, MOST_FILTERS, LARGEST_KERNEL = 6, 1024, 5
MOST_HIDDEN, MOST_UNITS = 3, 4096
MOST_WEIGHTS = 2**30  # 4 GB of them, and as much for each of Adam's moments and for each shard


class Network(NamedTuple):
    """A network that the kernels compute: what it takes, and its layers in their order.

    Convolutions, each with a bias, a ReLU and 2 x 2 max pooling; hidden dense layers with a ReLU;
    a last dense layer with a softmax.

    Attributes
    ----------
    image_shape : height, width, channels.
    filters : of each convolution, 1 to 6 of them.
    kernel_size : of every convolution, 1 to 5.
    padding : of every convolution, "valid" or "same".
    dense_units : of the hidden dense layers, 0 to 3 of them.
    dropout : share of the flattened features dropped in training, 0 to below 1.
    classes : of the probabilities.
    """

    image_shape: tuple[int, int, int]
    filters: tuple[int, ...]
    kernel_size: int
    padding: str
    dense_units: tuple[int, ...]
    dropout: float
    classes: int

    def outputs(self) -> list[tuple[int, int, int]]:
        """Return height, width and channels of the images, and what each pooling makes of them."""
        shapes = [self.image_shape]
        for filters in self.filters:
            height, width, _ = shapes[-1]
            trim = self.kernel_size - 1 if self.padding == "valid" else 0
            shapes.append(((height - trim) // 2, (width - trim) // 2, filters))
        return shapes

    def widths(self) -> list[int]:
        """Return how many values come in to each dense layer, and the classes."""
        return [math.prod(self.outputs()[-1]), *self.dense_units, self.classes]

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the weights in Keras' order: of each layer its kernel, its bias.

        (k, k, channels, filters) and (filters,) of a convolution; (in, units) and (units,) of a
        dense layer.
        """
        side, channels = self.kernel_size, [self.image_shape[-1], *self.filters]
        kernels = [(side, side, *pair) for pair in pairwise(channels)] + [*pairwise(self.widths())]
        return [shape for kernel in kernels for shape in (kernel, kernel[-1:])]

    def weighted(self) -> list[str]:
        """Return the names of the layers that have weights.

        A lone hidden layer is "dense", as it was when there was always one: other people's scripts
        may ask for it by this name.
        """
        hidden = [f"dense_{number}" for number, _ in enumerate(self.dense_units, 1)]
        return [
            *(f"convolution_{number}" for number, _ in enumerate(self.filters, 1)),
            *(["dense"] if len(hidden) == 1 else hidden),
            "probabilities",
        ]

    def names(self) -> list[str]:
        """Return what the arrays of `shapes` are called in messages: "convolution_1 kernel", ..."""
        return [f"{layer} {part}" for layer in self.weighted() for part in ("kernel", "bias")]


def network_of(
    filters: tuple[int, ...],
    kernel_size: int,
    dense_units: tuple[int, ...],
    dropout: float,
    image_shape: tuple[int, int, int],
    classes: int,
) -> Network:
    """Return the network of these layers, its padding chosen.

    "valid", or "same", zeros around the image, where images are so small that nothing would be left
    of them otherwise.

    Raises
    ------
    UserError
        The poolings alone leave nothing of the images, or there would be too many weights.
    """
    for padding in ("valid", "same"):
        network = Network(
            tuple(image_shape),
            tuple(filters),
            kernel_size,
            padding,
            tuple(dense_units),
            dropout,
            classes,
        )
        if min(network.outputs()[-1][:2]) < 1:
            continue
        weights = sum(map(math.prod, network.shapes()))
        if weights > MOST_WEIGHTS:
            raise UserError(
                f"train.filters {list(filters)} and train.dense_units {list(dense_units)} make "
                f"{weights:,} weights for such images; at most {MOST_WEIGHTS:,} are possible; "
                "lower them in params.yaml, or prepare.image_size"
            )
        return network
    height, width, _ = image_shape
    raise UserError(
        f"train.filters has {len(filters)} convolutions, each with a pooling that halves the "
        f"image; images of {height} x {width} pixels bear {min(height, width).bit_length() - 1}; "
        "shorten it in params.yaml"
    )
