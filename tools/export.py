"""Write the model for another runtime, and prove what it gives there for every test image.

    python -m tools.export onnx|litert|savedmodel [--to models/exports/cnn.onnx]

Reads the model and the test images. Writes models/exports/cnn.onnx, cnn.tflite or the folder
cnn.savedmodel, each with an input `images`, float32 (n, h, w, c) in [0, 1] for any n, and an output
`probabilities`, float32 (n, k); and beside it a record, cnn.onnx.json and so on, of what was
compared. The file is run by its own runtime, with that runtime's default settings, before it gets
its name: one whose probabilities differ by more than 1e-5 from the exact ones is not written, and
the exit code is 1.

ONNX is written from the weights that are read as data, LiteRT and SavedModel from the model as
Keras loads it. So is a model of other layers, of the engine `keras`: it is compared with what Keras
itself gives.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnn import kernels
from cnn.base.errors import UserError, brief
from cnn.base.files import write_json
from cnn.base.program import run, silence
from cnn.data import sets
from cnn.model import archive, keras_runtime

if TYPE_CHECKING:
    from cnn.model.network import Network

Floats = NDArray[np.float32]
FOLDER = Path("models/exports")
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "savedmodel": ".savedmodel"}
LIMIT = 1e-5  # on the difference of a probability; float32 sums in another order give some 1e-6
OPSET, IR_VERSION = 13, 7  # of the year 2020: the first whose Softmax is Keras'
BATCH = 500
MOST_BYTES = 2**31 - 2**20  # what one file of protobuf or FlatBuffers can hold, and some room
# What computes in each runtime, or writes for it.
PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("keras", "tensorflow"),
    "savedmodel": ("keras", "tensorflow"),
}
SIGNATURE = "serving_default"


def extra(name: str) -> ModuleType:
    """Import a package of requirements-export.txt.

    Raises
    ------
    UserError
        It is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"{name} is not installed; run 'pip install --require-hashes -r "
            "requirements-export.txt'"
        ) from None


def write_onnx(path: Path, network: Network, weights: list[Floats]) -> dict[str, object]:
    """Write a network as ONNX, the same bytes on every run; return the versions of the format.

    Parameters
    ----------
    weights : float32, of the shapes `network.shapes()`.
    """
    helper, numpy_helper = extra("onnx.helper"), extra("onnx.numpy_helper")
    nodes, constants, before = [], [], "images"

    def add(kind: str, name: str, *arrays: Floats, **settings: object) -> None:
        nonlocal before
        names = [f"{name}/{part}" for part in ("kernel", "bias")[: len(arrays)]]
        constants.extend(map(numpy_helper.from_array, map(np.ascontiguousarray, arrays), names))
        nodes.append(helper.make_node(kind, [before, *names], [name], name, **settings))
        before = name

    rest = iter(weights)
    trim = network.kernel_size - 1 if network.padding == "same" else 0
    pads = [trim // 2] * 2 + [trim - trim // 2] * 2  # above, left, below, right
    for layer in network.layers():
        kernel, bias = [next(rest) for _ in layer.weights] or (None, None)
        if layer.kind == "InputLayer":
            add("Transpose", "channels_first", perm=[0, 3, 1, 2])
        elif layer.kind == "Conv2D":
            add("Conv", layer.name, kernel.transpose(3, 2, 0, 1), bias, pads=pads)
            add("Relu", f"{layer.name}/relu")
        elif layer.kind == "MaxPooling2D":
            add("MaxPool", layer.name, kernel_shape=[2, 2], strides=[2, 2])
        elif layer.kind == "Flatten":
            add(
                "Transpose", "channels_last", perm=[0, 2, 3, 1]
            )  # the order in which Keras flattens
            add("Flatten", layer.name)
        elif layer.kind == "Dense" and layer.settings["activation"] == "softmax":
            add("Gemm", "logits", kernel, bias)
            add("Softmax", layer.name, axis=1)
        elif layer.kind == "Dense":
            add("Gemm", layer.name, kernel, bias)
            add("Relu", f"{layer.name}/relu")
        elif layer.kind != "Dropout":  # which predicts as if it were not there
            raise NotImplementedError(layer.kind)

    images = helper.make_tensor_value_info("images", 1, ["n", *network.image_shape])  # 1: float32
    probabilities = helper.make_tensor_value_info("probabilities", 1, ["n", network.classes])
    graph = helper.make_graph(nodes, "cnn", [images], [probabilities], constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return {"opset": OPSET, "ir_version": IR_VERSION}


def write_savedmodel(path: Path, model_path: Path, shape: tuple[int, ...]) -> dict[str, object]:
    """Write a Keras model's file as a folder that TensorFlow loads without Keras.

    shape : height, width and channels of its images.
    """
    keras = keras_runtime.start_keras()
    tensorflow = import_module("tensorflow")
    model = keras.saving.load_model(model_path, compile=False, safe_mode=True)

    @tensorflow.function(
        input_signature=[tensorflow.TensorSpec((None, *shape), tensorflow.float32, "images")]
    )
    def serve(images):
        return {"probabilities": model(images, training=False)}

    # Not `tensorflow.saved_model.save(model)`: of that, LiteRT's converter finds no weights.
    serve.get_concrete_function()
    archived = keras.export.ExportArchive()
    archived.track(model)
    archived.add_endpoint(SIGNATURE, serve)
    archived.write_out(str(path), verbose=False)
    return {"saved_model_schema": 1}


def write_litert(path: Path, model_path: Path, shape: tuple[int, ...]) -> dict[str, object]:
    """Write a Keras model's file as LiteRT, formerly TensorFlow Lite, in float32.

    Raises
    ------
    UserError
        LiteRT has no operation for something in the model.
    """
    folder = path.with_name("savedmodel")
    write_savedmodel(folder, model_path, shape)
    converter = import_module("tensorflow").lite.TFLiteConverter.from_saved_model(str(folder))
    try:
        path.write_bytes(converter.convert())
    except Exception as error:
        if type(error).__name__ != "ConverterError":  # the class is not public
            raise
        cause = brief(" ".join(str(error).split()), 200)[1:-1]
        raise UserError(f"{model_path}: LiteRT cannot compute it ({cause})") from None
    return {"tflite_schema": 3}


def outputs(kind: str, path: Path, images: Floats) -> Floats:
    """Return what the written file gives in its own runtime, float32 (n, k)."""
    if kind == "onnx":
        session = extra("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])

        def give(part: Floats) -> Floats:
            return session.run(["probabilities"], {"images": part})[0]

    elif kind == "litert":
        interpreter = import_module("tensorflow").lite.Interpreter(str(path))
        runner = interpreter.get_signature_runner(SIGNATURE)

        def give(part: Floats) -> Floats:
            return runner(images=part)["probabilities"]

    else:
        loaded = import_module("tensorflow").saved_model.load(str(path))

        def give(part: Floats) -> Floats:
            return loaded.signatures[SIGNATURE](images=part)["probabilities"].numpy()

    parts = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    return np.concatenate([give(part) for part in parts])


def files(path: Path) -> list[Path]:
    """Return a file itself, or the files in a folder, sorted."""
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of a line `SHA-256  name` per file in it."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [f"{digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_target(kind: str, target: Path) -> None:
    """Refuse to write over anything but an earlier export."""
    if target.suffix != SUFFIXES[kind]:
        raise UserError(f"{target}: does not end in {SUFFIXES[kind]}; choose another with --to")
    earlier = target / "saved_model.pb" if kind == "savedmodel" else target
    if target.exists() and not earlier.is_file():
        raise UserError(f"{target}: is no earlier export; remove it or choose another with --to")


def export(kind: str, model_path: Path, test: Path, target: Path) -> dict[str, object]:
    """Write the model to `target` once it has proved itself there; return what is recorded.

    Raises
    ------
    UserError
        The model is not one of such images, cannot be written in this format, or gives
        probabilities there that differ by more than `LIMIT`.
    """
    check_target(kind, target)
    if kind == "onnx":
        for name in PACKAGES[kind]:
            extra(name)
    images, _, classes = sets.load(test)
    shape = images.shape[1:]
    try:
        model = archive.read(model_path, shape, len(classes))
        expected = kernels.probabilities(model.network, model.weights, images)
    except archive.OtherNetworkError as error:
        if kind == "onnx":
            raise UserError(f"{error}; 'litert' and 'savedmodel' take any of Keras'") from None
        model, expected = None, keras_runtime.predict(model_path, images)
    if expected.shape != (len(images), len(classes)) or not archive.are_probabilities(expected):
        raise UserError(f"{model_path}: gives no probabilities; choose another with --model")
    if model and kind != "savedmodel" and sum(each.nbytes for each in model.weights) > MOST_BYTES:
        raise UserError(f"{model_path}: is too large for one file of 2 GB; choose 'savedmodel'")

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
        draft = Path(folder, target.name)
        with silence():  # TensorFlow says a lot
            if kind == "onnx":
                versions = write_onnx(draft, model.network, model.weights)
            else:
                write = write_litert if kind == "litert" else write_savedmodel
                versions = write(draft, model_path, shape)
            given = outputs(kind, draft, images)
        difference = float(np.abs(given - expected).max())
        if not difference <= LIMIT:  # nor NaN
            raise UserError(
                f"{target}: would give probabilities that differ by up to {difference:.1e} from "
                f"the {'exact ones' if model else 'ones of Keras'}, more than {LIMIT:.0e}; it is "
                "not written"
            )
        record = {
            "format": kind,
            **versions,
            "bytes": sum(file.stat().st_size for file in files(draft)),
            "sha256": digest(draft),
            "model": str(model_path),
            "model_sha256": digest(model_path),
            "input": {"images": ["n", *shape]},
            "output": {"probabilities": ["n", len(classes)]},
            "classes": classes.tolist(),
            "compared_with": "the kernels" if model else "Keras",
            "images": len(images),
            "largest_difference": difference,
            "limit": LIMIT,
            "other_class": int((given.argmax(axis=1) != expected.argmax(axis=1)).sum()),
            "packages": {name: version(name) for name in PACKAGES[kind]},
        }
        if target.is_dir():
            shutil.rmtree(target)  # an earlier one, see `check_target`
        os.replace(draft, target)
    write_json(target.with_name(f"{target.name}.json"), record)
    return record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("format", choices=SUFFIXES)
    parser.add_argument("--model", type=Path, default=Path("models/cnn.keras"), metavar="KERAS")
    parser.add_argument("--test", type=Path, default=Path("data/prepared/test.npz"), metavar="NPZ")
    parser.add_argument("--to", type=Path, help="default: in models/exports")
    arguments = parser.parse_args(argv)
    name = f"{arguments.model.stem}{SUFFIXES[arguments.format]}"
    target = arguments.to or FOLDER / name
    record = export(arguments.format, arguments.model, arguments.test, target)
    print(
        f"{target}: {record['bytes']:,} bytes; of {record['images']:,} test images "
        f"{record['other_class']} get another class, probabilities differ by "
        f"{record['largest_difference']:.1e} at most"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
