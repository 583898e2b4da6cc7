"""The `.keras` file of a network, read and written as data, without Keras and TensorFlow.

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
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError, brief, reason
from cnn.base.files import REPAIR, atomic_write, read_bytes
from cnn.model.network import Layer, Network

KERAS = "3.15.1"  # whose file `write` writes
# A zip entry cannot be older; numpy's npz carry the same date.
EPOCH = (1980, 1, 1, 0, 0, 0)
MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
MOST_JSON = 2**20  # bytes of a description
MOST_BYTES = 2**32  # of a file
FLOAT32 = {
    "module": "keras",
    "class_name": "DTypePolicy",
    "config": {"name": "float32"},
    "registered_name": None,
}
KINDS = {layer.kind for layer in Network((2, 2, 1), (1,), 1, "same", (), 0.5, 1).layers()}
# Settings that change no probability; batch_shape is `Network.image_shape` by then. Any other that
# is not in the table of layers must be null or false: an older Keras may lack it, a newer one may
# compute something else with it.
IDLE = re.compile(r"name|trainable|dtype|batch_shape|seed|\w+_(initializer|regularizer|constraint)")


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
    """The file of a network that Keras may well compute, but not the kernels."""


def _other(what: str) -> OtherNetworkError:
    return OtherNetworkError(
        f"{what}; only the layers of cnn/model/network.py are computed without Keras"
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
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in MEMBERS:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix, as Python writes it there, wherever this is
            archive.writestr(entry, content[name])


def _described(kind: str, module: str = "keras.layers", **config: object) -> dict:
    """Return an object as Keras describes it."""
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _entry(layer: Layer) -> dict:
    """Return a layer as config.json has it."""
    if layer.kind == "InputLayer":
        flags = {"sparse": False, "ragged": False, "name": layer.name, "optional": False}
        return _described(layer.kind, **layer.settings, dtype="float32", **flags)
    settings = dict(layer.settings)
    if layer.weights:
        activity = ["activity_regularizer"] if layer.kind == "Conv2D" else []
        settings |= {
            "kernel_initializer": _described("GlorotUniform", "keras.initializers", seed=None),
            "bias_initializer": _described("Zeros", "keras.initializers"),
            **dict.fromkeys(["kernel_regularizer", "bias_regularizer", *activity]),
            **dict.fromkeys(["kernel_constraint", "bias_constraint"]),
        }
    described = _described(layer.kind, name=layer.name, trainable=True, dtype=FLOAT32, **settings)
    if layer.kind in ("MaxPooling2D", "Dropout"):  # which Keras does not build
        return described
    return described | {"build_config": {"input_shape": [None, *layer.input_shape]}}


def _document(network: Network, adam: Adam) -> dict:
    """Return config.json, its keys in Keras' order."""
    shape = [None, *network.image_shape]
    model = {
        "name": "cnn",
        "trainable": True,
        "dtype": FLOAT32,
        "layers": [_entry(layer) for layer in network.layers()],
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
        for path, layer in _groups(network):
            store(path, layer.name, [next(rest) for _ in layer.weights])
        store("optimizer", "adam", adam.variables())
    return stream.getvalue()


def _groups(network: Network) -> list[tuple[str, Layer]]:
    """Return each layer after the input with its group in model.weights.h5.

    Every Keras from 3.0 to 3.15 goes by kind and number, not by name, be it a Sequential or a
    Functional model.
    """
    found, counts = [], Counter()
    for layer in network.layers()[1:]:
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", layer.kind).lower()
        number = f"_{counts[kind]}" if counts[kind] else ""
        found.append((f"layers/{kind}{number}", layer))
        counts[kind] += 1
    return found


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
        It has a layer or a setting that the kernels do not compute.
    UserError
        It is missing, damaged, made for other images, or its weights are not finite. Both name the
        file.
    """
    try:
        members = _unpacked(read_bytes(path, MOST_BYTES))
        network, names = _network_in(members["config.json"])
        if image_shape is not None and network.image_shape != tuple(image_shape):
            raise UserError(f"its input is {list(network.image_shape)}, not {list(image_shape)}")
        if classes is not None and network.classes != classes:
            raise UserError(f"its output is [{network.classes}], not [{classes}]")
        return Model(network, _weights_in(members["model.weights.h5"], network, names))
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path}: is missing; run 'make repro'") from None
        if isinstance(error.__cause__, OSError):
            raise UserError(f"{path}: cannot be read: {reason(error.__cause__)}") from None
        another = "; choose another, or run 'dvc repro' for one that fits"
        message = f"{path}: {error}{'' if REPAIR in str(error) else another}"
        raise type(error)(message) from None


def _cause(error: Exception) -> str:
    return brief(" ".join(str(error).split()), 200)[1:-1]


def _damaged(error: Exception) -> UserError:
    return UserError(f"is damaged or no .keras file ({_cause(error)}); {REPAIR}")


def _unpacked(data: bytes) -> dict[str, bytes]:
    """Return the members of a `.keras` file, checked against their own checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sorted(entry.filename for entry in entries) != sorted(MEMBERS):
                raise UserError(f"it does not hold exactly {', '.join(MEMBERS)}")
            for entry in entries:
                name, size = entry.filename, entry.file_size
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"its {name} is compressed, which Keras never does")
                if size > (MOST_BYTES if name.endswith("h5") else MOST_JSON):
                    raise UserError(f"its {name} has {size:,} bytes")
            return {name: archive.read(name) for name in MEMBERS}
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
    """Return the network that config.json describes, and what messages call its layers.

    What build_config claims of shapes is not looked at: they follow from the layers.
    """
    try:
        document = json.loads(config)
        kind, layers = document["class_name"], document["config"]["layers"]
        if kind not in ("Sequential", "Functional") or not _is_keras(document):
            raise _other(f"its model is a {_class(document)}")
        _check_dtype("its model", document["config"])
        for layer in layers:
            if layer["class_name"] not in KINDS or not _is_keras(layer):
                raise _other(f"{_name(layer)} is a {_class(layer)}")
            _check_dtype(_name(layer), layer["config"])
        if not layers:
            raise _other("it has no layers")
        if kind == "Functional" and not _is_chain(document["config"]):
            raise _other("its layers do not follow one another")
        layers = [  # without dropouts of nothing
            layer
            for layer in layers
            if layer["class_name"] != "Dropout" or layer["config"]["rate"] != 0
        ]
        network = _network_of(layers)
        for layer, expected in zip(layers, network.layers(), strict=True):
            _check_settings(layer, expected)
        return network, [_name(layer) for layer in layers]
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
    """Return whether a class is Keras' own; 3.0 names its module in full, "keras.src.layers..."."""
    return described["module"].split(".")[0] == "keras"


def _class(described: dict) -> str:
    return brief(f"{described['module']}.{described['class_name']}")[1:-1]


def _name(layer: dict) -> str:
    return f"its layer {brief(layer['config'].get('name') or layer['class_name'])[1:-1]}"


def _network_of(layers: list[dict]) -> Network:
    """Return the network of layers of known kinds; its settings and their order are checked."""
    kinds = [layer["class_name"] for layer in layers]
    of_kind = {kind: [e["config"] for e in layers if e["class_name"] == kind] for kind in KINDS}
    convolutions, dense = of_kind["Conv2D"], of_kind["Dense"]
    if convolutions and dense and of_kind["InputLayer"]:
        network = Network(
            tuple(of_kind["InputLayer"][0]["batch_shape"][1:]),
            tuple(layer["filters"] for layer in convolutions),
            convolutions[0]["kernel_size"][0],
            convolutions[0]["padding"],
            tuple(layer["units"] for layer in dense[:-1]),
            of_kind["Dropout"][0]["rate"] if of_kind["Dropout"] else 0.0,
            dense[-1]["units"],
        )
        if problem := network.problem():
            raise _other(f"its network has {problem}")
        if kinds == [layer.kind for layer in network.layers()]:
            return network
    raise _other(f"its layers are {brief(', '.join(kinds), 300)[1:-1]}")


def _check_settings(layer: dict, expected: Layer) -> None:
    """Raise OtherNetworkError unless a layer computes what the one in the table does."""
    settings = layer["config"]
    for key in sorted(settings.keys() | expected.settings.keys()):
        value, right = settings.get(key), expected.settings.get(key)
        off = not right and (value is None or value is False)
        if value != right and not off and not IDLE.fullmatch(key):
            raise _other(f"{_name(layer)} has the setting {brief(key)[1:-1]} {brief(value)}")


def _check_dtype(what: str, options: dict) -> None:
    dtype = options.get("dtype")  # a name until Keras 3.3; a Functional model has none
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    if dtype not in (None, "float32"):
        raise _other(f"{what} has the dtype {brief(dtype)}")


def _is_chain(config: dict) -> bool:
    """Return whether each layer of a Functional model takes what the one before it gives."""

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


def _weights_in(data: bytes, network: Network, names: list[str]) -> list[NDArray[np.float32]]:
    """Return the weights in model.weights.h5 after checking that they are all there, and finite."""
    needed = 4 * sum(math.prod(shape) for shape in network.shapes())
    if needed > len(data):  # before any memory is taken for them
        raise UserError(
            f"its weights need {needed:,} bytes; its model.weights.h5 has {len(data):,}"
        )
    weights = []
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            for (group, layer), name in zip(_groups(network), names[1:], strict=True):
                for number, shape in enumerate(layer.weights.values()):
                    array = _array(file, f"{group}/vars/{number}", shape, name)
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
    """Return whether (n, k) values are finite and non-negative with rows that sum to 1."""
    return bool(
        np.isfinite(values).all()
        and values.min() >= 0
        and np.abs(values.sum(axis=1) - 1).max() < 1e-2
    )
