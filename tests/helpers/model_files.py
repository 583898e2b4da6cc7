"""Model files: one that is right, and every kind that must be refused, with the reason."""

import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from cnn.base.errors import brief
from cnn.model import archive
from cnn.model.archive import Adam, CosineDecay
from cnn.model.network import Network, network_of

MNIST = (28, 28, 1)
USUAL = network_of((4, 8), 3, (16,), 0.0, MNIST, 10)
COSINE = CosineDecay(0.0001, 80, 0.05, 0.002, 20)
NO_MODEL = "its config.json is not that of a Keras model"

# ---- A file that is right, and its members -------------------------------------------------------


def drawn(network: Network) -> list[np.ndarray]:
    rng = np.random.default_rng(len(network.filters))
    return [rng.normal(0, 0.2, shape).astype(np.float32) for shape in network.shapes()]


def adam_of(weights: list[np.ndarray], averaging: float = 0.0, rate=COSINE) -> Adam:
    slots = [[number * array for array in weights] for number in (2, 3, 4)]
    return Adam(rate, 0.9, 0.999, 0.0, averaging, 7, *slots[:2], slots[2] if averaging else [])


def written(path: Path, network: Network = USUAL, **settings) -> Path:
    weights = drawn(network)
    archive.write(path, network, weights, adam_of(weights, **settings))
    return path


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in archive.MEMBERS}


def packed(content: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return stream.getvalue()


# ---- Changes of a right file: each returns a function of its bytes -------------------------------

Make = Callable[[bytes], bytes]


def replaced(name: str, data: bytes) -> Make:
    return lambda whole: packed(members(whole) | {name: data})


config, weights = partial(replaced, "config.json"), partial(replaced, "model.weights.h5")


def document(change: Callable[[dict], object]) -> Make:
    def make(whole: bytes) -> bytes:
        read = json.loads(members(whole)["config.json"])
        change(read)
        return config(json.dumps(read).encode())(whole)

    return make


def layers(change: Callable[[list], object]) -> Make:
    return document(lambda read: change(read["config"]["layers"]))


def layer(number: int, **changed: object) -> Make:
    return layers(lambda given: given[number].update(changed))


def setting(number: int, **changed: object) -> Make:
    return layers(lambda given: given[number]["config"].update(changed))


def stored(change: Callable[[h5py.File], object]) -> Make:
    def make(whole: bytes) -> bytes:
        stream = io.BytesIO(members(whole)["model.weights.h5"])
        with h5py.File(stream, "r+") as file:
            change(file)
        return weights(stream.getvalue())(whole)

    return make


# ---- What must be refused ------------------------------------------------------------------------

CODE = {"module": "os", "class_name": "__lambda__", "config": {"code": "YQ==", "defaults": None}}
NAMES = [each.name for each in USUAL.layers()]
# Layer, setting and value, each of which Keras may compute, and the kernels do not.
SETTINGS = [
    (0, "sparse", True),
    (1, "dilation_rate", [2, 2]),
    (1, "strides", [2, 2]),
    (1, "groups", 2),
    (1, "use_bias", False),
    (1, "data_format", "channels_first"),
    (1, "activation", "gelu"),
    (1, "activation", CODE),
    (1, "kernel_size", [3, 1]),
    (2, "pool_size", [3, 3]),
    (2, "padding", "same"),
    (3, "kernel_size", [5, 5]),
    (3, "padding", "same"),
    (6, "activation", "softmax"),
    (7, "activation", "linear"),
    (7, "novelty", 0.5),
    (7, "a\nb", 1),
]
# Layer, setting and value, and the field of `Network` that it breaks.
BOUNDS = [
    (0, "batch_shape", [None, 784], "image_shape"),
    (0, "batch_shape", [None, None, None, 1], "image_shape"),
    (0, "batch_shape", [None, 10**6, 10**6, 1], "image_shape"),
    (0, "batch_shape", [None, 28.0, 28, 1], "image_shape"),
    (0, "batch_shape", [None, 28, 28, 2], "channels"),
    (0, "batch_shape", [None, 9, 40, 1], "poolings that leave nothing of the image"),
    (1, "filters", 10**7, "filters"),
    (1, "filters", 0, "filters"),
    (1, "filters", True, "filters"),
    (1, "filters", 1e3, "filters"),
    (1, "kernel_size", [7, 7], "kernel_size"),
    (1, "kernel_size", [0, 0], "kernel_size"),
    (1, "padding", "causal", "padding"),
    (6, "units", 2**31, "dense_units"),
    (6, "units", -(10**10), "dense_units"),
    (6, "units", 10**300, "dense_units"),
    (7, "units", 2**31, "classes"),
    (7, "units", "10", "classes"),
]
LAYERS = {
    "a Lambda": (
        layer(2, class_name="Lambda", config={"function": CODE}),
        "its layer Lambda is a keras.layers.Lambda",
    ),
    "another module": (layer(2, module="os"), "its layer pooling_1 is a os.MaxPooling2D"),
    "a registered class": (
        layer(6, registered_name="own>Dense", module="own.keras"),
        "its layer dense is a own.keras.Dense",
    ),
    "a name with a line break": (
        layer(2, class_name="A\nB"),
        "its layer pooling_1 is a keras.layers.A\\nB",
    ),
    "a long name": (layer(2, class_name="A" * 10**5), "its layer pooling_1 is a keras.layers.AAA"),
    "a long name of a layer": (setting(6, name="\x1b" * 10**5 + "\n", use_bias=0), "its layer \\x"),
    "no pooling": (
        layers(lambda given: given.pop(2)),
        "its layers are InputLayer, Conv2D, Conv2D, MaxPooling2D, Flatten, Dense, Dense",
    ),
    "no convolution": (
        layers(lambda given: given.__delitem__(slice(1, 5))),
        "its layers are InputLayer, Flatten, Dense, Dense",
    ),
    "no layers": (layers(list.clear), "it has no layers"),
    "seven convolutions": (
        layers(lambda given: given.__setitem__(slice(1, 3), given[1:3] * 6)),
        "its network has number of filters [7], not 1 to 6",
    ),
    "four hidden layers": (
        layers(lambda given: given.extend(given[-1:] * 3)),
        "its network has number of dense_units [4], not 0 to 3",
    ),
    "1,000 layers": (layers(lambda given: given.extend(given[2:3] * 1000)), "its layers are Inp"),
    "half precision": (
        setting(1, dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}}),
        "its layer convolution_1 has the dtype 'mixed_bfloat16'",
    ),
    "whole numbers": (setting(0, dtype="uint8"), "its layer images has the dtype 'uint8'"),
    "a model in half precision": (
        document(lambda read: read["config"].update(dtype="bfloat16")),
        "its model has the dtype 'bfloat16'",
    ),
    "another kind of model": (
        document(lambda read: read.update(class_name="Model")),
        "its model is a keras.Model",
    ),
    "a model of another module": (
        document(lambda read: read.update(module="mine")),
        "its model is a mine.Sequential",
    ),
    "a text for a layer": (layers(lambda given: given.append("text")), NO_MODEL),
    "no config": (layers(lambda given: given[1].pop("config")), NO_MODEL),
    "a list for a class": (layer(1, class_name=["Conv2D"]), NO_MODEL),
    "no module": (layer(1, module=None), NO_MODEL),
    "a list for a config": (layer(1, config=[]), NO_MODEL),
    "no dtype": (setting(1, dtype={}), NO_MODEL),
    "layers that are no list": (document(lambda read: read["config"].update(layers=1)), NO_MODEL),
}
CONFIGS = {
    "nothing": b"",
    "half a brace": b"{",
    "no keys": b"{}",
    "a list": b"[1]",
    "null": b"null",
    "no text": b"\xff\xfe\x00",
    "HTML": b"<html>",
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "a number of 10^5 digits": b'{"config": ' + b"1" * 100_000 + b"}",
    "a Functional model": b'{"module": "keras", "class_name": "Functional", "config": {}}',
}
KERNEL, BIAS, SHAPE = "layers/conv2d/vars/0", "layers/conv2d/vars/1", (3, 3, 1, 4)
LINKED = "has weights behind a link, which Keras never writes"
LACKS = f"has no weights: its model.weights.h5 lacks {KERNEL}"
NO_ARRAY = f"has no weights: its model.weights.h5 has no array {KERNEL}"
IN_PIECES = "has weights that are not stored in one piece, as Keras does it"


def instead(make: Callable[[h5py.File], object], path: str = KERNEL) -> Make:
    def change(file: h5py.File) -> None:
        file.move(path, "elsewhere")
        make(file)

    return stored(change)


def dataset(shape: tuple = SHAPE, dtype: str = "<f4", **options: object) -> Make:
    """Put another array in the place of the first kernel; it is written to only with `data`."""
    return instead(lambda file: file.create_dataset(KERNEL, shape, dtype, **options))


def zeros(dtype: str, shape: tuple[int, ...] = SHAPE, **options: object) -> Make:
    return dataset(shape, dtype, data=np.zeros(shape, dtype), **options)


def link(to: object, path: str = KERNEL) -> Make:
    return instead(lambda file: file.__setitem__(path, to), path)


def virtual(other: str = "/etc/other.h5") -> Make:
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[...] = h5py.VirtualSource(other, "array", SHAPE)
    return instead(lambda file: file.create_virtual_dataset(KERNEL, layout))


def without(path: str) -> Make:
    return stored(lambda file: file.__delitem__(path))


def value(number: float) -> Make:
    return stored(lambda file: file[BIAS].__setitem__(2, number))


def wrong(what: str) -> str:
    return f"has weights {what}, not float32 {SHAPE}"


ARRAYS = {
    "a soft link": (link(h5py.SoftLink("/elsewhere")), LINKED),
    "an external link": (link(h5py.ExternalLink("/etc/other.h5", "/elsewhere")), LINKED),
    "a group behind a link": (
        link(h5py.ExternalLink("/etc/other.h5", "/elsewhere"), "layers/conv2d"),
        LINKED,
    ),
    "a group that holds itself": (
        instead(
            lambda file: file.__setitem__("layers/conv2d/vars", file["layers/conv2d"]),
            "layers/conv2d/vars",
        ),
        LACKS,
    ),
    "a virtual dataset": (virtual(), IN_PIECES),
    "bytes of another file": (dataset(external=[("/etc/passwd", 0, 144)]), IN_PIECES),
    "chunks": (zeros("<f4", chunks=True), IN_PIECES),
    "compressed chunks": (zeros("<f4", compression="gzip"), IN_PIECES),
    "gigabytes, compressed": (dataset((30_000, 30_000), compression="gzip"), IN_PIECES),
    "checksums": (zeros("<f4", fletcher32=True), IN_PIECES),
    "no bytes": (dataset(), "has weights that were never written"),
    "float64": (zeros("<f8"), wrong(f"float64 {SHAPE}")),
    "float16": (zeros("<f2"), wrong(f"float16 {SHAPE}")),
    "int32": (zeros("<i4"), wrong(f"int32 {SHAPE}")),
    "big-endian": (zeros(">f4"), wrong(f">f4 {SHAPE}")),
    "texts": (zeros("S4"), wrong(f"|S4 {SHAPE}")),
    "objects": (dataset((), h5py.ref_dtype), wrong("object ()")),
    "another shape": (zeros("<f4", (9, 4)), wrong("float32 (9, 4)")),
    "no dimension": (zeros("<f4", ()), wrong("float32 ()")),
    "no array": (without(KERNEL), LACKS),
    "no layer": (without("layers/conv2d"), LACKS),
    "a group for an array": (instead(lambda file: file.create_group(KERNEL)), NO_ARRAY),
    "an array for a group": (
        instead(lambda file: file.create_dataset("layers/conv2d", ()), "layers/conv2d"),
        LACKS,
    ),
    "NaN": (value(np.nan), "has weights that are not finite"),
    "infinity": (value(-np.inf), "has weights that are not finite"),
}
EXACTLY = "it does not hold exactly config.json, metadata.json, model.weights.h5"
FILES = {
    "weights that are none": (weights(b"none" * 10_000), "is damaged or no .keras file ("),
    "fewer weights than layers need": (weights(bytes(3000)), "its weights need "),
    "layers of gigabytes": (
        layers(
            lambda given: (
                given[0]["config"].update(batch_shape=[None, 256, 256, 1]),
                given[3]["config"].update(filters=1024),
                given[6]["config"].update(units=4096),
            )
        ),
        "its weights need 64,",
    ),
    "a long config": (config(b" " * 30_000_000), "its config.json has 30,000,000 bytes"),
    "a zip bomb": (
        lambda whole: packed(
            members(whole) | {"model.weights.h5": bytes(2**26)}, zipfile.ZIP_DEFLATED
        ),
        "its config.json is compressed, which Keras never does",
    ),
    "a member too many": (replaced("code.py", b"import os"), EXACTLY),
    "a path out": (replaced("../../x", b"x"), EXACTLY),
    "a member too few": (lambda whole: packed({"config.json": b"{}"}), EXACTLY),
    "an empty zip": (lambda whole: b"PK\5\6" + bytes(18), EXACTLY),
    "HTML": (lambda whole: b"<!doctype html>" * 1000, "is damaged or no .keras file ("),
    "nothing": (lambda whole: b"", "is damaged or no .keras file ("),
}
# {what it is: (a function that makes it of the bytes of a right file, why it is refused)}
HOSTILE: dict[str, tuple[Make, str]] = {
    **{
        f"layer {number} with {brief(key)} {brief(what)}": (
            setting(number, **{key: what}),
            f"its layer {NAMES[number]} has the setting {brief(key)[1:-1]} {brief(what)}",
        )
        for number, key, what in SETTINGS
    },
    **{
        f"layer {number} with {key} {brief(what)}": (
            setting(number, **{key: what}),
            f"its network has {field}",
        )
        for number, key, what, field in BOUNDS
    },
    **LAYERS,
    **{f"a config of {what}": (config(data), NO_MODEL) for what, data in CONFIGS.items()},
    **{
        f"weights of {what}": (make, f"its layer convolution_1 {cause}")
        for what, (make, cause) in ARRAYS.items()
    },
    **FILES,
}
