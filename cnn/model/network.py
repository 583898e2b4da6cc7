"""The network that the kernels compute: a table of its layers, and what it may have at most."""

from __future__ import annotations

import math
from typing import NamedTuple

from cnn.base.errors import RUN, UserError, brief

# What a network may have at most; each has one convolution and one dense layer at least.
MOST_SIDE = 256  # pixels
MOST_CONVOLUTIONS, MOST_FILTERS, LARGEST_KERNEL = 6, 1024, 5
MOST_HIDDEN, MOST_UNITS = 3, 4096
MOST_WEIGHTS = 2**30  # 4 GB of them, and as much for each of Adam's moments
CHANNELS_LAST = {"data_format": "channels_last"}


class Layer(NamedTuple):
    """A layer, as Keras names and sets it.

    Attributes
    ----------
    kind : Keras' class.
    name : Keras' name of it, and the one in messages.
    settings : Keras' arguments that decide what is computed, in the order of its config.
    input_shape, output_shape : of one image's values: (height, width, channels) or (values,).
    weights : {name: shape}, in Keras' order.
    """

    kind: str
    name: str
    settings: dict[str, object]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weights: dict[str, tuple[int, ...]]


class Network(NamedTuple):
    """A network that the kernels compute.

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
    classes : number of probabilities.
    """

    image_shape: tuple[int, int, int]
    filters: tuple[int, ...]
    kernel_size: int
    padding: str
    dense_units: tuple[int, ...]
    dropout: float
    classes: int

    def layers(self) -> list[Layer]:
        """Return the layers in their order.

        From this table follow the shapes of the weights, Keras' model, the model file, and what is
        accepted of one. A lone hidden layer is "dense", as it was when there was always one: other
        people's scripts may ask for it by this name.
        """
        shape, side = tuple(self.image_shape), self.kernel_size
        layers = [Layer("InputLayer", "images", {"batch_shape": [None, *shape]}, shape, shape, {})]

        def add(
            kind: str,
            name: str,
            output_shape: tuple[int, ...],
            kernel: tuple[int, ...] = (),
            **settings: object,
        ) -> None:
            weights = {"kernel": kernel, "bias": kernel[-1:]} if kernel else {}
            shape = layers[-1].output_shape
            layers.append(Layer(kind, name, settings, shape, output_shape, weights))

        for number, filters in enumerate(self.filters, 1):
            height, width, channels = layers[-1].output_shape
            if self.padding == "valid":
                height, width = height - side + 1, width - side + 1
            add(
                "Conv2D",
                f"convolution_{number}",
                (height, width, filters),
                (side, side, channels, filters),
                filters=filters,
                kernel_size=[side, side],
                strides=[1, 1],
                padding=self.padding,
                **CHANNELS_LAST,
                dilation_rate=[1, 1],
                groups=1,
                activation="relu",
                use_bias=True,
            )
            add(
                "MaxPooling2D",
                f"pooling_{number}",
                (height // 2, width // 2, filters),
                pool_size=[2, 2],
                padding="valid",
                strides=[2, 2],
                **CHANNELS_LAST,
            )
        values = math.prod(layers[-1].output_shape)
        add("Flatten", "flatten", (values,), **CHANNELS_LAST)
        if self.dropout:
            settings = {"rate": self.dropout, "seed": None, "noise_shape": None}
            add("Dropout", "dropout", (values,), **settings)
        hidden = [f"dense_{number}" for number, _ in enumerate(self.dense_units, 1)]
        dense = [
            *zip(self.dense_units, hidden if len(hidden) > 1 else ["dense"], strict=False),
            (self.classes, "probabilities"),
        ]
        for units, name in dense:
            activation = "softmax" if name == "probabilities" else "relu"
            kernel, settings = (values, units), {"activation": activation, "use_bias": True}
            add("Dense", name, (units,), kernel, units=units, **settings)
            values = units
        return layers

    def outputs(self) -> list[tuple[int, int, int]]:
        """Return height, width and channels of the images, and what each pooling makes of them."""
        kinds = ("InputLayer", "MaxPooling2D")
        return [layer.output_shape for layer in self.layers() if layer.kind in kinds]

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the weights in Keras' order: of each layer its kernel, its bias.

        (k, k, channels, filters) and (filters,) of a convolution; (in, units) and (units,) of a
        dense layer.
        """
        return [shape for layer in self.layers() for shape in layer.weights.values()]

    def names(self) -> list[str]:
        """Return what the arrays of `shapes` are called in messages: "convolution_1 kernel", ..."""
        return [f"{layer.name} {weight}" for layer in self.layers() for weight in layer.weights]

    def problem(self) -> str:
        """Say what the kernels cannot compute, whatever a file has put into the fields; or ""."""
        bounds = {
            "image_shape": (self.image_shape, 1, MOST_SIDE),
            "kernel_size": ([self.kernel_size], 1, LARGEST_KERNEL),
            "number of filters": ([len(self.filters)], 1, MOST_CONVOLUTIONS),
            "filters": (self.filters, 1, MOST_FILTERS),
            "number of dense_units": ([len(self.dense_units)], 0, MOST_HIDDEN),
            "dense_units": (self.dense_units, 1, MOST_UNITS),
            "classes": ([self.classes], 1, MOST_UNITS),
        }
        for name, (values, least, most) in bounds.items():
            if not all(type(value) is int and least <= value <= most for value in values):
                return f"{name} {brief([*values])}, not {least} to {most}"
        if tuple(self.image_shape[2:]) not in [(1,), (3,)]:
            return f"channels {brief([*self.image_shape[2:]])}, not 1 or 3"
        if self.padding not in ("valid", "same"):
            return f"padding {brief(self.padding)}, not 'valid' or 'same'"
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            return f"dropout {brief(self.dropout)}, not 0 to below 1"
        return "" if min(self.outputs()[-1][:2]) > 0 else "poolings that leave nothing of the image"


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
                f"lower them, or prepare.image_size, in params.yaml {RUN}"
            )
        return network
    height, width, _ = image_shape
    raise UserError(
        f"train.filters has {len(filters)} convolutions, each with a pooling that halves the "
        f"image; images of {height} x {width} pixels bear {min(height, width).bit_length() - 1}; "
        f"shorten it in params.yaml {RUN}"
    )
