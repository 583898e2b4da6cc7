"""Model files for predict, draw and evaluate: damaged, hostile or much too large."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from cnn import archive
from handwriting import draw, predict
from tests.faults.common import Fault, Given, called, damaged, refused
from tools import predict as tools_predict

FORM = (28, 28, 1), 10
SHAPES = ((3, 3, 1, 4), (4,), (3, 3, 4, 4), (4,), (100, 16), (16,), (16, 10), (10,))


def _layer(name: str, **options: object) -> dict:
    return {"module": "keras.layers", "class_name": name, "config": options}


def config() -> dict:
    """Return the seven layers as Keras describes them, shortened to what it needs."""
    window = {"strides": [1, 1], "padding": "valid", "dilation_rate": [1, 1]}
    pool = {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}
    conv = {"kernel_size": [3, 3], "filters": 4, **window}
    layers = [
        _layer("InputLayer", batch_shape=[None, 28, 28, 1]),
        _layer("Conv2D", **conv),
        _layer("MaxPooling2D", **pool),
        _layer("Conv2D", **conv),
        _layer("MaxPooling2D", **pool),
        _layer("Flatten"),
        _layer("Dense", units=16),
        _layer("Dense", units=10),
    ]
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": layers}}


def weights(shapes: tuple = SHAPES, **options: object) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for number, shape in enumerate(shapes):
            file.create_dataset(f"layers/{number}", shape, "f4", **options)
            if not options:
                file[f"layers/{number}"][...] = number
    return stream.getvalue()


def packed(
    described: object, stored: bytes, kind: int = zipfile.ZIP_STORED, **more: bytes
) -> bytes:
    stream = io.BytesIO()
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    with zipfile.ZipFile(stream, "w", kind) as file:
        for name, content in {
            "config.json": text,
            "metadata.json": b"{}",
            "model.weights.h5": stored,
            **more,
        }.items():
            file.writestr(name, content)
    return stream.getvalue()


def _changed(number: int, change: Callable[[dict], object]) -> dict:
    described = config()
    change(described["config"]["layers"][number])
    return described


def hostile() -> dict[str, bytes]:
    """Return {what it is: bytes of the file}."""
    stored = weights()
    code = {"class_name": "__lambda__", "config": {"code": "YQ==", "defaults": None}}
    described = {
        "a Lambda": _changed(6, lambda layer: layer.update(_layer("Lambda", function=code))),
        "a foreign module": _changed(6, lambda layer: layer.update(module="os")),
        "a foreign class": _changed(
            6, lambda layer: layer.update(_layer("TFSMLayer", filepath="/"))
        ),
        "a Dense of 2^31": _changed(6, lambda layer: layer["config"].update(units=2**31)),
        "a Dense of 10^300": _changed(6, lambda layer: layer["config"].update(units=10**300)),
        "a Dense of -1": _changed(6, lambda layer: layer["config"].update(units=-1)),
        "a Dense of a text": _changed(6, lambda layer: layer["config"].update(units="16")),
        "filters of 10^9": _changed(1, lambda layer: layer["config"].update(filters=10**9)),
        "a kernel of 0": _changed(1, lambda layer: layer["config"].update(kernel_size=[0, 0])),
        "strides of 0": _changed(1, lambda layer: layer["config"].update(strides=[0, 0])),
        "another input": _changed(0, lambda layer: layer["config"].update(batch_shape=[None, 9])),
        "eleven classes": _changed(7, lambda layer: layer["config"].update(units=11)),
        "no layers": {"module": "keras", "class_name": "Sequential", "config": {"layers": []}},
        "no config": {},
        "a functional model": {"class_name": "Functional", "config": {"layers": {}}},
        "a list": [1, 2],
        "brackets": b"[" * 100_000,
        "no JSON": b"<html>",
        "a config bomb": b'{"a": "' + b"x" * 2**21 + b'"}',
        "a number of 10^5 digits": b'{"config": ' + b"1" * 100_000 + b"}",
    }
    files = {what: packed(each, stored) for what, each in described.items()}
    return files | {
        "weights that are none": packed(config(), b"none" * 10_000),
        "no weights": packed(config(), b""),
        "weights of other layers": packed(config(), weights(SHAPES[:4])),
        "weights that unfold to gigabytes": packed(
            config(), weights(((30_000, 30_000),), compression="gzip") + bytes(20_000)
        ),
        "a zip bomb": packed(config(), bytes(2**26), zipfile.ZIP_DEFLATED),
        "a file too many": packed(config(), stored, **{"code.py": b"import os"}),
        "a path out": packed(config(), stored, **{"../../x": b"x"}),
        "an empty zip": b"PK\5\6" + bytes(18),
        "a page of HTML": b"<!doctype html>" * 1000,
    }


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    path = given.folder / "model.keras"
    whole = packed(config(), weights())
    path.write_bytes(whole)
    ended = called(lambda _: print(len(archive.read(path, *FORM))), [])
    yield Fault("one that is right", "" if ended == (0, "") else ended.errors)
    for what, content in damaged(whole, 200 if full else 40, rng):
        path.write_bytes(content)
        ended = called(lambda _: print(len(archive.read(path, *FORM))), [])
        yield Fault(what, "" if ended.code == 0 and _same(content, whole) else refused(ended, path))
    Image.fromarray(np.uint8(np.eye(28) * 255)).save(given.folder / "digit.png")
    about = {"height": 28, "width": 28, "channels": 1, "images_by_class": dict.fromkeys(range(10))}
    (given.folder / "data.json").write_text(json.dumps(about))
    for what, content in hostile().items():
        path.write_bytes(content)
        for name, ended in _programs(given.folder, path):
            yield Fault(f"{name}: {what}", refused(ended, path))
    for what in ("a folder", "nothing"):
        path.unlink() if path.is_file() else path.rmdir()
        if what == "a folder":
            path.mkdir()
        for name, ended in _programs(given.folder, path):
            yield Fault(f"{name}: {what}", refused(ended, path))


def _programs(folder: Path, path: Path) -> Iterator[tuple[str, object]]:
    """Each refuses before it starts TensorFlow."""
    digit, model = str(folder / "digit.png"), f"--model={path}"
    yield "handwriting.predict", called(predict.main, [digit, model])
    yield "handwriting.draw", called(draw.main, [model, "--port=0"])
    yield "tools.predict", called(tools_predict.main, [digit, model, f"--data={folder}/data.json"])
    yield "evaluate", called(lambda _: print(archive.read(path, *FORM)), [])


def _same(content: bytes, whole: bytes) -> bool:
    """Tell whether two files hold the same model, though bits differ between its parts."""
    files = [zipfile.ZipFile(io.BytesIO(each)) for each in (content, whole)]
    return all(files[0].read(name) == files[1].read(name) for name in archive.PARTS)
