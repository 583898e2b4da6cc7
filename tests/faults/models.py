"""Model files for predict, draw and evaluate: damaged, hostile or much too large."""

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from cnn import archive
from cnn.archive import Adam
from cnn.data import Data
from cnn.network import network_of
from handwriting import draw, predict
from stages import evaluate
from tests.faults.common import Ended, Fault, Given, called, damaged, refused
from tools import predict as tools_predict

FORM = (28, 28, 1), 10
FIRST, DENSE = "layers/conv2d/vars/0", "layers/dense/vars/0"  # kernels in model.weights.h5


def write(path: Path) -> bytes:
    """Write a model that is right, and return its bytes."""
    network = network_of((4, 4), 3, (16,), 0.0, *FORM)
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-0.2, 0.2, shape).astype(np.float32) for shape in network.shapes()]
    archive.write(path, network, arrays, Adam(0.1, 0.9, 0.9, 0.0, 0.0, 1, arrays, arrays, []))
    return path.read_bytes()


def parts(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in archive.PARTS}


def packed(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def weights(whole: bytes, change: Callable[[h5py.File], object]) -> bytes:
    """Return model.weights.h5 after a change."""
    stream = io.BytesIO(whole)
    with h5py.File(stream, "r+") as file:
        change(file)
    return stream.getvalue()


def _described(whole: bytes) -> dict[str, object]:
    """Return {what it is: config.json, as bytes or as what they are of}."""

    def layer(number: int, **changed: object) -> dict:
        document = json.loads(whole)
        document["config"]["layers"][number].update(changed)
        return document

    def setting(number: int, **changed: object) -> dict:
        document = json.loads(whole)
        document["config"]["layers"][number]["config"].update(changed)
        return document

    code = {"class_name": "__lambda__", "config": {"code": "YQ==", "defaults": None}}
    return {
        "a Lambda": layer(6, class_name="Lambda", config={"function": code}),
        "a foreign module": layer(6, module="os"),
        "a foreign class": layer(6, class_name="TFSMLayer", config={"filepath": "/"}),
        "a class of somebody's": layer(6, registered_name="own>Dense", module="own.keras"),
        "a Dense of 2^31": setting(6, units=2**31),
        "a Dense of 10^300": setting(6, units=10**300),
        "a Dense of -1": setting(6, units=-1),
        "a Dense of a text": setting(6, units="16"),
        "a Dense of a list": setting(6, units=[16]),
        "a Dense of true": setting(6, units=True),
        "filters of 10^9": setting(1, filters=10**9),
        "filters of 1e3": setting(1, filters=1e3),
        "a kernel of 0": setting(1, kernel_size=[0, 0]),
        "a kernel of 10^9": setting(1, kernel_size=[10**9, 10**9]),
        "kernels of two sizes": setting(3, kernel_size=[5, 5]),
        "strides of 0": setting(1, strides=[0, 0]),
        "pools of 0": setting(2, pool_size=[0, 0]),
        "a function for the activation": setting(6, activation=code),
        "an activation of another kind": setting(6, activation="gelu"),
        "a setting of a later Keras": setting(6, quantization="int4"),
        "another input": setting(0, batch_shape=[None, 9]),
        "an input of 10^9": setting(0, batch_shape=[None, 10**9, 10**9, 1]),
        "an input of any size": setting(0, batch_shape=[None, None, None, 1]),
        "eleven classes": setting(7, units=11),
        "a name of 10^5 letters": setting(6, name="\x1b" * 10**5 + "\n", units=0),
        "no layers": {"module": "keras", "class_name": "Sequential", "config": {"layers": []}},
        "10^4 layers": {
            "module": "keras",
            "class_name": "Sequential",
            "config": {
                "layers": [
                    {
                        "module": "keras.layers",
                        "class_name": "Flatten",
                        "config": {"data_format": "channels_last"},
                    }
                ]
                * 10**4
            },
        },
        "no config": {},
        "a functional model": {"class_name": "Functional", "config": {"layers": {}}},
        "a list": [1, 2],
        "brackets": b"[" * 100_000,
        "no JSON": b"<html>",
        "no text": b"\xff\xfe\x00",
        "a config bomb": b'{"a": "' + b"x" * 2**21 + b'"}',
        "a number of 10^5 digits": b'{"config": ' + b"1" * 100_000 + b"}",
    }


def _stored(whole: bytes) -> dict[str, bytes]:
    """Return {what it is: model.weights.h5}."""

    def instead(path: str, make: Callable[[h5py.Group, str], object]) -> bytes:
        def change(file: h5py.File) -> None:
            group, _, name = path.rpartition("/")
            del file[path]
            make(file[group], name)

        return weights(whole, change)

    def value(path: str, number: float) -> bytes:
        def change(file: h5py.File) -> None:
            file[path][(0,) * file[path].ndim] = number

        return weights(whole, change)

    def dataset(path: str, shape: tuple[int, ...], dtype: str = "<f4", **options: object) -> bytes:
        return instead(
            path, lambda group, name: group.create_dataset(name, shape, dtype, **options)
        )

    def virtual(group: h5py.Group, name: str) -> None:
        layout = h5py.VirtualLayout((3, 3, 1, 4), "<f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 3, 1, 4))
        group.create_virtual_dataset(name, layout)

    def link(to: object) -> bytes:
        return instead(FIRST, lambda group, name: group.__setitem__(name, to))

    def circle(file: h5py.File) -> None:
        del file["layers/conv2d/vars"]
        file["layers/conv2d/vars"] = file["layers/conv2d"]

    shape = 3, 3, 1, 4
    return {
        "weights that are none": b"none" * 10_000,
        "no weights": b"",
        "weights of the first layer only": weights(whole, lambda file: file.__delitem__(DENSE)),
        "weights that unfold to gigabytes": dataset(DENSE, (30_000, 30_000), compression="gzip")
        + bytes(20_000),
        "weights in pieces": dataset(FIRST, shape, chunks=shape),
        "weights in a filter": dataset(FIRST, shape, chunks=shape, fletcher32=True),
        "weights in another file": dataset(FIRST, shape, external=[("/etc/passwd", 0, 144)]),
        "weights behind a link": link(h5py.SoftLink(f"/{DENSE}")),
        "weights behind a link to another file": link(h5py.ExternalLink("/etc/passwd", "/")),
        "weights put together of another file": instead(FIRST, virtual),
        "weights that were never written": dataset(FIRST, shape),
        "a group for weights": instead(FIRST, lambda group, name: group.create_group(name)),
        "a group that holds itself": weights(whole, circle),
        "weights of 64 bits": dataset(FIRST, shape, "<f8"),
        "weights of the other order of bytes": dataset(FIRST, shape, ">f4"),
        "weights of texts": dataset(FIRST, shape, "S4"),
        "weights of objects": dataset(FIRST, shape, h5py.ref_dtype),
        "weights of another shape": dataset(FIRST, (4, 3, 3, 1)),
        "weights of no dimension": dataset(FIRST, ()),
        "a weight that is NaN": value(FIRST, np.nan),
        "a weight that is infinite": value(DENSE, -np.inf),
    }


def hostile(whole: bytes) -> dict[str, bytes]:
    """Return {what it is: bytes of the file}, made of those of a model that is right."""
    right = parts(whole)
    described = {
        what: each if isinstance(each, bytes) else json.dumps(each).encode()
        for what, each in _described(right["config.json"]).items()
    }
    files = {what: packed(right | {"config.json": each}) for what, each in described.items()}
    files |= {
        what: packed(right | {"model.weights.h5": each})
        for what, each in _stored(right["model.weights.h5"]).items()
    }
    return files | {
        "a zip bomb": packed(right | {"model.weights.h5": bytes(2**26)}, zipfile.ZIP_DEFLATED),
        "a file too many": packed(right | {"code.py": b"import os"}),
        "a path out": packed(right | {"../../x": b"x"}),
        "a file too few": packed({"config.json": right["config.json"]}),
        "an empty zip": b"PK\5\6" + bytes(18),
        "a page of HTML": b"<!doctype html>" * 1000,
    }


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    path = given.folder / "model.keras"
    whole = write(path)
    Image.fromarray(np.uint8(np.eye(28) * 255)).save(given.folder / "digit.png")
    about = {"height": 28, "width": 28, "channels": 1, "images_by_class": dict.fromkeys(range(10))}
    (given.folder / "data.json").write_text(json.dumps(about))
    programs = _programs(given.folder, path)
    for name in programs.keys() - {"handwriting.draw"}:  # which would serve it
        ended = programs[name]()
        yield Fault(f"{name}: one that is right", "" if ended == (0, "") else ended.errors)
    for what, content in damaged(whole, 200 if full else 40, rng):
        path.write_bytes(content)
        found: list = []
        ended = called(lambda _, found=found: found.extend(archive.read(path, *FORM).weights), [])
        same = not ended.code and _same(content, whole)
        yield Fault(what, "" if same else refused(ended, path))
    for what, content in hostile(whole).items():
        path.write_bytes(content)
        for name, program in programs.items():
            yield Fault(f"{name}: {what}", refused(program(), path))
    for what in ("a folder", "nothing"):
        path.unlink() if path.is_file() else path.rmdir()
        if what == "a folder":
            path.mkdir()
        for name, program in programs.items():
            yield Fault(f"{name}: {what}", refused(program(), path))
    late = {"tensorflow", "keras"} & set(sys.modules)
    yield Fault("none of them imports TensorFlow", f"{late} were" if late else "")


def _programs(folder: Path, path: Path) -> dict[str, Callable[[], Ended]]:
    """Return {name: how to call it} of all that reads the model at `path`."""
    digit, model = str(folder / "digit.png"), f"--model={path}"
    images = Data(np.zeros((3, 28, 28, 1), np.float32), np.arange(3), np.arange(10).astype(str))
    return {
        "handwriting.predict": lambda: called(predict.main, [digit, model]),
        "handwriting.draw": lambda: called(draw.main, [model, "--port=0"]),
        "tools.predict": lambda: called(
            tools_predict.main, [digit, model, f"--data={folder}/data.json"]
        ),
        "evaluate": lambda: called(lambda _: print(evaluate.predict(images, path, "exact")), []),
    }


def _same(content: bytes, whole: bytes) -> bool:
    """Tell whether two files hold the same model, though bits differ between its parts."""
    return parts(content) == parts(whole)
