"""Check a `.keras` file before Keras builds anything from it, then load it.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5. Keras' safe mode
refuses foreign code in it; a zip bomb, a layer of hundreds of gigabytes and flipped bits are
refused here.
"""

import io
import json
import lzma
import math
import os
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.integrity import LOCK, md5, recorded_outputs
from stages.params import UserError
from stages.runtime import start_tensorflow
from tools.handwriting import read_file

if TYPE_CHECKING:
    import keras

PARTS = {"metadata.json": 2**16, "config.json": 2**20, "model.weights.h5": 2**28}  # most bytes
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
)
MOST_WEIGHTS = 20_000_000
MOST_VALUES = 1_000_000  # of one layer's output for one image


def sizes_in(config: dict) -> tuple[list[int], int, int]:
    """Walk a Sequential model's config and return its output shape, weights and largest output.

    Only layers whose sizes are known here are let through, and the shape that a file claims for a
    layer must be the shape that arrives there: Keras builds the weights from what is claimed.
    """
    shape: list[int] = []
    weights, largest = 0, 0
    for layer in config["config"]["layers"]:
        name, options = layer["class_name"], layer["config"]
        if name == "InputLayer":
            shape = list(options["batch_shape"][1:])
            if shape != [28, 28, 1]:
                raise UserError(f"its input is {shape}, not [28, 28, 1]")
            continue
        claimed = (layer.get("build_config") or {}).get("input_shape")
        if not shape or layer["module"] != "keras.layers" or claimed not in (None, [None, *shape]):
            raise UserError(f"its layer {name} does not fit the one before")
        if name == "Conv2D":
            kernel, filters = options["kernel_size"], options["filters"]
            weights += math.prod(kernel) * shape[-1] * filters + filters
            shape = [*window(shape, kernel, options), filters]
        elif name in ("MaxPooling2D", "AveragePooling2D"):
            shape = [*window(shape, options["pool_size"], options), shape[-1]]
        elif name == "Flatten":
            shape = [math.prod(shape)]
        elif name == "Dense":
            weights += (shape[-1] + 1) * options["units"]
            shape = [*shape[:-1], options["units"]]
        elif name == "BatchNormalization":
            weights += 4 * shape[-1]
        elif name not in ("Dropout", "Activation", "ReLU", "Softmax"):
            raise UserError(f"its layer {name} is not one that this tool knows")
        if any(type(side) is not int or side < 1 for side in shape):
            raise UserError(f"its layer {name} has the output {shape}")
        largest = max(largest, math.prod(shape))
    return shape, weights, largest


def window(shape: list[int], size: list[int], options: dict) -> list[int]:
    """Return the height and width that a sliding window of `size` leaves of `shape`."""
    if min(*size, *options["strides"]) < 1 or set(options.get("dilation_rate", [1])) != {1}:
        raise UserError("a window in it has no size, or holes")
    trim = 0 if options["padding"] == "same" else 1
    return [
        (length - trim * (side - 1) + step - 1) // step
        for length, side, step in zip(shape[:2], size, options["strides"], strict=True)
    ]


def check_arrays(data: bytes) -> None:
    """Raise UserError if the arrays of an HDF5 file would unfold to more than the file may weigh.

    They may be compressed, a thousandfold if they are empty: Keras' own bound is at 4 GB.
    """
    import h5py

    sizes: list[int] = []

    def weigh(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(math.prod(item.shape or ()) * item.dtype.itemsize)

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(weigh)
    if sum(sizes) > PARTS["model.weights.h5"]:
        raise UserError(f"its weights would take {sum(sizes):,} bytes")


def check(data: bytes) -> None:
    """Raise UserError unless the bytes are a whole, small model of one digit image."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sorted(entry.filename for entry in entries) != sorted(PARTS):
                raise UserError(f"it does not hold exactly {', '.join(PARTS)}")
            for entry in entries:
                if entry.file_size > PARTS[entry.filename]:
                    raise UserError(f"its {entry.filename} would take {entry.file_size:,} bytes")
            if damaged := archive.testzip():
                raise UserError(f"its {damaged} is damaged")
            config = json.loads(archive.read("config.json"))
            check_arrays(archive.read("model.weights.h5"))
        shape, weights, largest = sizes_in(config)
    except UserError:
        raise
    except ZIP_ERRORS as error:
        raise UserError(f"not a whole .keras file: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError("its config.json is not that of a Keras Sequential model") from error
    if weights > MOST_WEIGHTS or largest > MOST_VALUES:
        raise UserError(f"it asks for {weights:,} weights and {largest:,} values in one layer")
    if shape != [10]:
        raise UserError(f"its output is {shape}, not [10]")


def warn_of_another(path: Path, copy: Path, lock: Path) -> None:
    """Say so if the file is the pipeline's own by its path, but not by its bytes."""
    own = Path(os.path.relpath(path, lock.parent)).as_posix()
    _, expected = recorded_outputs(lock).get(own, ("", None))
    if expected not in (None, md5(copy)):
        print(f"warning: {path}: not the model that {lock.name} records", file=sys.stderr)


def load(path: Path, lock: Path = LOCK) -> "keras.Model":
    """Return the checked Keras model in a file.

    Raises
    ------
    UserError
        Naming the file, if it is not a model of (28, 28, 1) images to 10 probabilities.
    """
    try:
        data = read_file(path)
        check(data)
        with tempfile.TemporaryDirectory() as folder:  # so that what was checked is what is loaded
            copy = Path(folder) / "model.keras"
            copy.write_bytes(data)
            warn_of_another(path, copy, lock)
            if "tensorflow" not in sys.modules:  # else it runs as its user started it
                start_tensorflow(seed=0, threads=2)
            import keras

            try:
                model = keras.saving.load_model(copy, compile=False, safe_mode=True)
            except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
                cause = " ".join(str(error).split())[:200]
                raise UserError(f"Keras cannot load it: {cause}") from error
        blank = np.zeros((1, 28, 28, 1), dtype=np.float32)
        if not are_probabilities(np.asarray(model(blank, training=False))):
            raise UserError("its output is not 10 probabilities")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return model


def are_probabilities(values: np.ndarray) -> bool:
    """Tell whether float32 (n, 10) values are non-negative with rows that sum to 1."""
    return bool(
        values.ndim == 2
        and values.shape[1] == 10
        and np.isfinite(values).all()
        and values.min() >= 0
        and np.abs(values.sum(axis=1) - 1).max() < 1e-2
    )
