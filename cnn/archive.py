"""The `.keras` file of a network, read and written as data: neither Keras nor TensorFlow is asked.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5. What is written is what
Keras 3.15 writes of the same model, without three empty settings that older versions do not know:
Keras from 3.0.5 on loads it and trains it further. What is read may be anybody's: nothing in it
leads to another file, and the memory that it takes is bounded by the size of the file itself.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from cnn.errors import UserError, brief, reason
from cnn.files import CURE, replacing
from cnn.network import (
    LARGEST_KERNEL,
    MOST_CONVOLUTIONS,
    MOST_FILTERS,
    MOST_HIDDEN,
    MOST_UNITS,
    Network,
)
from cnn.npz import ZIP_ERRORS
from cnn.pictures import MAX_PIXELS, read_file

KERAS = "3.15.1"  # whose file `write` writes
# A zip entry cannot be older; numpy's npz carry the same date.
EPOCH = (1980, 1, 1, 0, 0, 0)
PARTS = ("config.json", "metadata.json", "model.weights.h5")
MOST_JSON = 2**20  # bytes of a description
MOST_BYTES = 2**32  # of a file
FLOAT32 = {
    "module": "keras",
    "class_name": "DTypePolicy",
    "config": {"name": "float32"},
    "registered_name": None,
}
# Of each kind of layer, the settings that must be so, and those that `_network_of` looks at.
FIXED = {
    "InputLayer": {},
    "Conv2D": {
        "strides": [1, 1],
        "data_format": "channels_last",
        "dilation_rate": [1, 1],
        "groups": 1,
        "activation": "relu",
        "use_bias": True,
    },
    "MaxPooling2D": {
        "pool_size": [2, 2],
        "padding": "valid",
        "strides": [2, 2],
        "data_format": "channels_last",
    },
    "Flatten": {"data_format": "channels_last"},
    "Dropout": {},
    "Dense": {"use_bias": True},
}
SEEN = {
    "InputLayer": {"batch_shape"},
    "Conv2D": {"filters", "kernel_size", "padding"},
    "Dropout": {"rate"},
    "Dense": {"units", "activation"},
}
# Settings that change no probability. Any other must be null or false: an older Keras may lack it,
# a newer one may compute something else with it.
IDLE = re.compile(r"name|trainable|dtype|seed|\w+_(initializer|regularizer|constraint)")
ORDER = re.compile(
    rf"InputLayer(, Conv2D, MaxPooling2D){{1,{MOST_CONVOLUTIONS}}}, Flatten(, Dropout)?"
    rf"(, Dense){{1,{MOST_HIDDEN + 1}}}"
)


class CosineDecay(NamedTuple):
    """Keras' schedule of the same name, after a linear warm-up; its settings as Keras has them."""

    initial_learning_rate: float
    decay_steps: int
    alpha: float
    warmup_target: float | None
    warmup_steps: int


class Adam(NamedTuple):
    """Adam with its state, as a training left it.

    Attributes
    ----------
    learning_rate : constant, or a schedule.
    beta_1, beta_2, weight_decay : Keras'; a weight decay of 0 is none.
    averaging : share of the past in the average of the weights; 0 is no average.
    iterations : steps taken.
    momenta, velocities : float32, as the weights.
    averages : float32, as the weights; empty without averaging.
    """

    learning_rate: float | CosineDecay
    beta_1: float
    beta_2: float
    weight_decay: float
    averaging: float
    iterations: int
    momenta: list[NDArray[np.float32]]
    velocities: list[NDArray[np.float32]]
    averages: list[NDArray[np.float32]]

    def variables(self) -> list[NDArray]:
        """Return the state in Keras' order."""
        rate = self.learning_rate
        return [
            np.array(self.iterations, np.int64),
            *([] if isinstance(rate, CosineDecay) else [np.array(rate, np.float32)]),
            *self.averages,
            *(slot for pair in zip(self.momenta, self.velocities, strict=True) for slot in pair),
        ]


class Model(NamedTuple):
    """A network and its weights, float32, in the order of `Network.shapes`."""

    network: Network
    weights: list[NDArray[np.float32]]


class OtherNetworkError(UserError):
    """The file of a network that Keras may well compute, but not `cnn.network`."""


def _other(what: str) -> OtherNetworkError:
    return OtherNetworkError(
        f"{what}; only the layers of cnn/network.py are computed without Keras"
    )


def write(
    path: str | Path, network: Network, weights: list[NDArray[np.float32]], adam: Adam
) -> None:
    """Write a model with its optimizer, whole or not at all: same arguments, same bytes.

    Parameters
    ----------
    weights : float32, of the shapes `network.shapes()`.

    Raises
    ------
    ValueError
        An array is not float32 or has another shape.
    """
    kinds = 4 if adam.averaging else 3
    arrays = [*weights, *adam.momenta, *adam.velocities, *adam.averages]
    expected = zip(network.names() * kinds, network.shapes() * kinds, strict=True)
    for (name, shape), array in zip(expected, arrays, strict=True):
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not float32 {shape}")
    metadata = {"keras_version": KERAS, "date_saved": "1980-01-01@00:00:00"}
    content = {
        "config.json": json.dumps(_document(network, adam)).encode(),
        "metadata.json": json.dumps(metadata).encode(),
        "model.weights.h5": _stored(network, weights, adam),
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in PARTS:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix, as Python writes it there, wherever this is
            archive.writestr(entry, content[name])


def _described(kind: str, module: str = "keras.layers", **config: object) -> dict:
    """Return an object as Keras describes it."""
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _document(network: Network, adam: Adam) -> dict:
    """Return config.json, its keys in Keras' order."""
    names = iter(network.weighted())
    outputs = network.outputs()

    def layer(kind: str, name: str, takes: tuple[int, ...] | None = None, **settings) -> dict:
        described = _described(kind, name=name, trainable=True, dtype=FLOAT32, **settings)
        build = {"build_config": {"input_shape": [None, *takes]}} if takes else {}
        return described | build

    def weighted(kind: str, takes: tuple[int, ...], **settings) -> dict:
        idle = ("kernel_regularizer", "bias_regularizer", "activity_regularizer")
        idle = idle if kind == "Conv2D" else idle[:2]
        return layer(
            kind,
            next(names),
            takes,
            **settings,
            use_bias=True,
            kernel_initializer=_described("GlorotUniform", "keras.initializers", seed=None),
            bias_initializer=_described("Zeros", "keras.initializers"),
            **dict.fromkeys((*idle, "kernel_constraint", "bias_constraint")),
        )

    shape = [None, *network.image_shape]
    layers = [
        _described(
            "InputLayer",
            batch_shape=shape,
            dtype="float32",
            sparse=False,
            ragged=False,
            name="images",
            optional=False,
        )
    ]
    for number, filters in enumerate(network.filters, 1):
        layers += [
            weighted(
                "Conv2D",
                outputs[number - 1],
                filters=filters,
                kernel_size=[network.kernel_size] * 2,
                strides=[1, 1],
                padding=network.padding,
                data_format="channels_last",
                dilation_rate=[1, 1],
                groups=1,
                activation="relu",
            ),
            layer("MaxPooling2D", f"pooling_{number}", **FIXED["MaxPooling2D"]),
        ]
    layers += [layer("Flatten", "flatten", outputs[-1], data_format="channels_last")]
    if network.dropout:
        rate = network.dropout
        layers += [layer("Dropout", "dropout", rate=rate, seed=None, noise_shape=None)]
    widths = network.widths()
    activations = ["relu"] * len(network.dense_units) + ["softmax"]
    for takes, units, activation in zip(widths, widths[1:], activations, strict=False):
        layers += [weighted("Dense", (takes,), units=units, activation=activation)]
    model = {
        "name": "cnn",
        "trainable": True,
        "dtype": FLOAT32,
        "layers": layers,
        "build_input_shape": shape,
    }
    return _described("Sequential", "keras", **model) | {
        "build_config": {"input_shape": shape},
        "compile_config": {
            "optimizer": _optimizer(adam),
            "loss": _described(
                "SparseCategoricalCrossentropy",
                "keras.losses",
                name="sparse_categorical_crossentropy",
                reduction="sum_over_batch_size",
                from_logits=False,
                ignore_class=None,
            ),
            "loss_weights": None,
            "metrics": ["accuracy"],
            "weighted_metrics": None,
            "run_eagerly": False,
            "steps_per_execution": 1,
            "jit_compile": False,
        },
    }


def _optimizer(adam: Adam) -> dict:
    rate = adam.learning_rate
    if isinstance(rate, CosineDecay):
        # With its name where Keras has it.
        start, steps, alpha, *warmup = rate._asdict().items()
        settings = dict([start, steps, alpha, ("name", "CosineDecay"), *warmup])
        described = _described("CosineDecay", "keras.optimizers.schedules", **settings)
    else:
        described = float(np.float32(rate))  # Keras keeps it as a float32 variable
    return _described(
        "Adam",
        "keras.optimizers",
        name="adam",
        learning_rate=described,
        weight_decay=adam.weight_decay or None,
        clipnorm=None,
        global_clipnorm=None,
        clipvalue=None,
        use_ema=adam.averaging > 0,
        ema_momentum=adam.averaging,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        beta_1=adam.beta_1,
        beta_2=adam.beta_2,
        epsilon=1e-7,
        amsgrad=False,
    )


def _stored(network: Network, weights: list[NDArray[np.float32]], adam: Adam) -> bytes:
    """Return model.weights.h5. Groups are made in Keras' order, so that the bytes are Keras' too.

    Keras keeps no state of the dropout: it draws from another one after each loading.
    """
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:

        def store(path: str, name: str, arrays: list[NDArray]) -> None:
            group = (file.create_group(path) if path else file).create_group("vars")
            group.attrs["name"] = name
            for number, array in enumerate(arrays):
                group[str(number)] = array  # h5py stamps no time on it

        store("", "cnn", [])
        rest = iter(weights)
        names = iter(network.weighted())
        for number, _ in enumerate(network.filters):
            store(_group("conv2d", number), next(names), [next(rest), next(rest)])
            store(_group("max_pooling2d", number), f"pooling_{number + 1}", [])
        store(_group("flatten", 0), "flatten", [])
        if network.dropout:
            store(_group("dropout", 0), "dropout", [])
        for number, name in enumerate(names):
            store(_group("dense", number), name, [next(rest), next(rest)])
        store("optimizer", "adam", adam.variables())
    return stream.getvalue()


def _group(kind: str, number: int) -> str:
    """Return the group of the n-th layer of its kind, from 0 on: Keras goes by kind, not by name.

    So does every Keras from 3.0 to 3.15, of a Sequential and of a Functional model.
    """
    return f"layers/{kind}_{number}" if number else f"layers/{kind}"


def read(
    path: str | Path, image_shape: tuple[int, int, int] | None = None, classes: int | None = None
) -> Model:
    """Return what a `.keras` file holds, whichever Keras from 3.0 on wrote it.

    Parameters
    ----------
    image_shape : height, width and channels that it must take; None for any.
    classes : how many probabilities it must give; None for any number.

    Raises
    ------
    OtherNetworkError
        It has a layer or a setting that `cnn.network` does not know.
    UserError
        It is missing, damaged, made for other images, or its weights are not finite. Both name the
        file.
    """
    try:
        parts = _unpacked(read_file(path, MOST_BYTES))
        network, names = _network_in(parts["config.json"])
        if image_shape is not None and network.image_shape != tuple(image_shape):
            raise UserError(f"its input is {list(network.image_shape)}, not {list(image_shape)}")
        if classes is not None and network.classes != classes:
            raise UserError(f"its output is [{network.classes}], not [{classes}]")
        return Model(network, _weights_in(parts["model.weights.h5"], network, names))
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path}: is missing; run 'make repro'") from None
        if isinstance(error.__cause__, OSError):
            raise UserError(f"{path}: cannot be read: {reason(error.__cause__)}") from None
        another = "; choose another, or run 'dvc repro' for one that fits"
        message = f"{path}: {error}{'' if CURE in str(error) else another}"
        raise type(error)(message) from None


def _cause(error: Exception) -> str:
    return brief(" ".join(str(error).split()), 200)[1:-1]


def _damaged(error: Exception) -> UserError:
    return UserError(f"is damaged or no .keras file ({_cause(error)}); {CURE}")


def _unpacked(data: bytes) -> dict[str, bytes]:
    """Return the parts of a `.keras` file, whole by their own checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sorted(entry.filename for entry in entries) != sorted(PARTS):
                raise UserError(f"it does not hold exactly {', '.join(PARTS)}")
            for entry in entries:
                name, size = entry.filename, entry.file_size
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"its {name} is compressed, which Keras never does")
                if size > (MOST_BYTES if name.endswith("h5") else MOST_JSON):
                    raise UserError(f"its {name} has {size:,} bytes")
            return {name: archive.read(name) for name in PARTS}
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        OSError,
        OverflowError,
        RuntimeError,
        ValueError,
    ) as error:
        raise _damaged(error) from None


def _network_in(config: bytes) -> tuple[Network, list[str]]:
    """Return the network that config.json describes, and what its layers with weights are called.

    What build_config claims of shapes is not looked at: they follow from the layers.
    """
    try:
        document = json.loads(config)
        kind, layers = document["class_name"], document["config"]["layers"]
        if kind not in ("Sequential", "Functional") or not _is_keras(document):
            raise _other(f"its model is a {_class(document)}")
        _check_dtype("its model", document["config"])
        for layer in layers:
            _check(layer)
        order = ", ".join(layer["class_name"] for layer in layers)
        if not ORDER.fullmatch(order):
            raise _other(f"its layers are {brief(order, 300)[1:-1]}")
        if kind == "Functional" and not _is_chain(document["config"]):
            raise _other("its layers do not follow one another")
        return _network_of(layers)
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        raise UserError("its config.json is not that of a Keras model") from None


def _is_keras(described: dict) -> bool:
    """Tell whether a class is Keras' own; 3.0 names its module in full, "keras.src.layers..."."""
    return described["module"].split(".")[0] == "keras"


def _class(described: dict) -> str:
    return brief(f"{described['module']}.{described['class_name']}")[1:-1]


def _name(layer: dict) -> str:
    return f"its layer {brief(layer['config'].get('name') or layer['class_name'])[1:-1]}"


def _check(layer: dict) -> None:
    """Raise OtherNetworkError unless a layer is of a known kind and computes as the kernels do."""
    kind, options = layer["class_name"], layer["config"]
    if kind not in FIXED or not _is_keras(layer):
        raise _other(f"{_name(layer)} is a {_class(layer)}")
    _check_dtype(_name(layer), options)
    for key, value in FIXED[kind].items():
        _setting(layer, key, lambda given, value=value: given == value)
    for key in sorted(options.keys() - FIXED[kind].keys() - SEEN.get(kind, set())):
        if not IDLE.fullmatch(key):
            _setting(layer, key, lambda given: given is None or given is False)


def _check_dtype(what: str, options: dict) -> None:
    dtype = options.get("dtype")  # a name until Keras 3.3; a Functional model has none
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    if dtype not in (None, "float32"):
        raise _other(f"{what} has the dtype {brief(dtype)}")


def _setting(layer: dict, key: str, is_known: Callable[[object], bool]) -> object:
    """Return a layer's setting, or raise OtherNetworkError."""
    value = layer["config"].get(key)
    if not is_known(value):
        raise _other(f"{_name(layer)} has the setting {brief(key)[1:-1]} {brief(value)}")
    return value


def _is_chain(config: dict) -> bool:
    """Tell whether each layer of a Functional model takes what the one before it gives."""

    def takes(layer: dict, before: dict) -> bool:
        nodes = layer["inbound_nodes"]
        if len(nodes) != 1 or len(nodes[0]["args"]) != 1 or any(nodes[0]["kwargs"].values()):
            return False  # called twice, or with such as training=True
        return nodes[0]["args"][0]["config"]["keras_history"] == [before["config"]["name"], 0, 0]

    layers = config["layers"]
    last = [layers[-1]["config"]["name"], 0, 0]
    return config["output_layers"] in (last, [last]) and all(
        takes(layer, before) for before, layer in pairwise(layers)
    )


def _network_of(layers: list[dict]) -> tuple[Network, list[str]]:
    """Return the network of layers that are known and in order, and the weighted ones' names."""

    def whole(most: int) -> Callable[[object], bool]:
        return lambda value: type(value) is int and 1 <= value <= most

    def is_batch(shape: object) -> bool:
        sides = shape[1:] if isinstance(shape, list) else []
        known = len(sides) == 3 and all(map(whole(3 * MAX_PIXELS), sides))
        return known and math.prod(sides) <= 3 * MAX_PIXELS

    of_kind = {kind: [layer for layer in layers if layer["class_name"] == kind] for kind in FIXED}
    convolutions, dense = of_kind["Conv2D"], of_kind["Dense"]
    squares = [[side, side] for side in range(1, LARGEST_KERNEL + 1)]
    square = _setting(convolutions[0], "kernel_size", lambda value: value in squares)
    padding = _setting(convolutions[0], "padding", lambda value: value in ("valid", "same"))
    for layer in convolutions:
        _setting(layer, "kernel_size", lambda value: value == square)
        _setting(layer, "padding", lambda value: value == padding)
    for layer in dense[:-1]:
        _setting(layer, "activation", lambda value: value == "relu")
    _setting(dense[-1], "activation", lambda value: value == "softmax")
    network = Network(
        tuple(_setting(layers[0], "batch_shape", is_batch)[1:]),
        tuple(_setting(layer, "filters", whole(MOST_FILTERS)) for layer in convolutions),
        int(square[0]),
        padding,
        tuple(_setting(layer, "units", whole(MOST_UNITS)) for layer in dense[:-1]),
        float(sum(_setting(layer, "rate", _is_share) for layer in of_kind["Dropout"])),
        _setting(dense[-1], "units", whole(MOST_UNITS)),
    )
    if min(network.outputs()[-1][:2]) < 1:
        raise UserError("its poolings leave nothing of its images")
    return network, [_name(layer) for layer in convolutions + dense]


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _weights_in(data: bytes, network: Network, names: list[str]) -> list[NDArray[np.float32]]:
    """Return the weights in model.weights.h5 after checking that they are all there, and finite."""
    needed = 4 * sum(math.prod(shape) for shape in network.shapes())
    if needed > len(data):  # before any memory is taken for them
        raise UserError(
            f"its weights need {needed:,} bytes; its model.weights.h5 has {len(data):,}"
        )
    groups = [_group("conv2d", number) for number, _ in enumerate(network.filters)]
    groups += [_group("dense", number) for number in range(len(names) - len(groups))]
    places = [(group, part) for group in groups for part in ("0", "1")]
    weights = []
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            for (group, part), shape in zip(places, network.shapes(), strict=True):
                name = names[len(weights) // 2]
                array = _array(file, f"{group}/vars/{part}", shape, name)
                if not np.isfinite(array).all():
                    raise UserError(f"{name} has weights that are not finite")
                weights.append(array)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise _damaged(error) from None
    return weights


def _array(file: h5py.File, path: str, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """Return an array, float32, of a layer `name`, in one piece where HDF5 may do otherwise.

    Links, external storage and virtual datasets would lead to other files, compressed pieces to any
    amount of memory. Keras writes none of them.
    """
    item = file
    for step in path.split("/"):
        if not isinstance(item, h5py.Group) or not item.id.links.exists(step.encode()):
            raise UserError(f"{name} has no weights: its model.weights.h5 lacks {path}")
        if item.id.links.get_info(step.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"{name} has weights behind a link, which Keras never writes")
        item = item[step]
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{name} has no weights: its model.weights.h5 has no array {path}")
    stored = item.id.get_create_plist()
    if (
        stored.get_layout() != h5py.h5d.CONTIGUOUS
        or stored.get_nfilters()
        or stored.get_external_count()
    ):
        raise UserError(f"{name} has weights that are not stored in one piece, as Keras does it")
    if item.shape != shape or not item.id.get_type().equal(h5py.h5t.IEEE_F32LE):
        raise UserError(f"{name} has weights {item.dtype} {item.shape}, not float32 {shape}")
    if item.id.get_storage_size() != 4 * math.prod(shape):
        raise UserError(f"{name} has weights that were never written")
    array = np.empty(shape, np.float32)
    item.read_direct(array)
    return array


def are_probabilities(values: NDArray) -> bool:
    """Tell whether (n, k) values are finite and non-negative with rows that sum to 1."""
    return bool(
        np.isfinite(values).all()
        and values.min() >= 0
        and np.abs(values.sum(axis=1) - 1).max() < 1e-2
    )


def predict_with_keras(path: str | Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the Keras model in a file of our own gives for images, float32 (n, k).

    Keras builds what the file describes, in its safe mode: only for what `train` itself wrote.

    Raises
    ------
    UserError
        It is missing, damaged or of other images, or a layer's weights are not finite, which
        outputs may hide.
    """
    import keras

    try:
        with zipfile.ZipFile(path) as file:  # Keras takes what is no zip for missing
            if broken := file.testzip():
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {broken!r}")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; run 'make repro'") from None
    except (*ZIP_ERRORS, TypeError, AttributeError) as error:
        raise UserError(f"{path}: Keras cannot load it ({_cause(error)}); {CURE}") from None
    for layer in model.layers:
        if not all(np.isfinite(np.asarray(weight)).all() for weight in layer.weights):
            raise UserError(
                f"{path}: its layer {layer.name} has weights that are not finite; "
                "run 'dvc repro --force train'"
            )
    try:
        return model.predict(images, batch_size=500, verbose=0)  # larger ones are no faster
    except ValueError:
        shape = list(images.shape[1:])
        raise UserError(
            f"{path}: does not take images of {shape}; run 'dvc repro --force train'"
        ) from None
