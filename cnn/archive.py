"""The `.keras` file: written with the same bytes on every run, checked before Keras builds from it.

A `.keras` file is a zip of metadata.json, config.json and model.weights.h5. Keras' safe mode
refuses foreign code in it; a zip bomb, a layer of hundreds of gigabytes and flipped bits are
refused here.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.errors import UserError, brief, reason
from cnn.files import CURE, replacing
from cnn.pictures import read_file
from cnn.runtime import keras

# A zip entry cannot be older; numpy's npz carry the same date.
EPOCH = (1980, 1, 1, 0, 0, 0)
PARTS = ("config.json", "metadata.json", "model.weights.h5")
MOST_JSON = 2**20  # bytes of a description
MOST_BYTES = 2**32  # of a file
# Bytes per weight: 4 of its own, as many for each of Adam's two moments and for the average.
PER_WEIGHT = 16
OVERHEAD = 2**22  # bytes that HDF5 may need beside the arrays
WIDEST = 1024  # values per pixel in a layer, what train.filters admits


def save(model: keras.Model, path: str | Path) -> None:
    """Write `model` as a `.keras` file that depends on nothing but the model.

    Keras' own file differs between two saves of one model in three places: the date in
    metadata.json, memory addresses as `shared_object_id` in config.json, and the zip's own times.
    """
    with replacing(path) as temporary:
        raw = temporary.with_name(f"{temporary.name}.keras")  # Keras insists on the ending
        try:
            model.save(raw)
            with zipfile.ZipFile(raw) as source, zipfile.ZipFile(temporary, "w") as target:
                for name in sorted(source.namelist()):
                    target.writestr(
                        zipfile.ZipInfo(name, EPOCH), _canonical(name, source.read(name))
                    )
        finally:
            raw.unlink(missing_ok=True)


def _canonical(name: str, content: bytes) -> bytes:
    """Return the content of one entry of a `.keras` file without what changes from run to run."""
    if name == "metadata.json":
        document = json.loads(content) | {"date_saved": "1980-01-01@00:00:00"}
    elif name == "config.json":
        document = _renumber(json.loads(content), {})
    else:
        return content
    return json.dumps(document).encode()


def _renumber(node: object, numbers: dict[int, int]) -> object:
    """Replace each `shared_object_id` by its order of appearance, so that sharing is kept."""
    if isinstance(node, list):
        return [_renumber(item, numbers) for item in node]
    if isinstance(node, dict):
        return {
            key: numbers.setdefault(value, len(numbers) + 1)
            if key == "shared_object_id" and value is not None
            else _renumber(value, numbers)
            for key, value in node.items()
        }
    return node


def sizes_in(config: dict, image_shape: tuple[int, ...]) -> tuple[list[int], int, int]:
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
            if shape != list(image_shape):
                raise UserError(f"its input is {shape}, not {list(image_shape)}")
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
        elif name in ("GlobalAveragePooling2D", "GlobalMaxPooling2D"):
            shape = shape[-1:]
        elif name in ("BatchNormalization", "LayerNormalization"):
            weights += 4 * shape[-1]
        elif name not in ("Dropout", "SpatialDropout2D", "Activation", "ReLU", "Softmax"):
            raise UserError(f"its layer {brief(name)[1:-1]} is not one that is known here")
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


def check_arrays(data: bytes, most: int) -> None:
    """Raise UserError if the arrays of an HDF5 file would unfold to more than `most` bytes.

    They may be compressed, a thousandfold if they are empty: Keras' own bound is at 4 GB.
    """
    import h5py

    sizes: list[int] = []

    def weigh(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(math.prod(item.shape or ()) * item.dtype.itemsize)

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(weigh)
    if sum(sizes) > most:
        raise UserError(f"its weights would take {sum(sizes):,} bytes")


def check(data: bytes, image_shape: tuple[int, ...], classes: int) -> None:
    """Raise UserError unless the bytes are a whole model of such images, no larger than it says."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if sorted(entries) != sorted(PARTS) or len(archive.infolist()) != len(PARTS):
                raise UserError(f"it does not hold exactly {', '.join(PARTS)}")
            for name, entry in entries.items():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"its {name} is compressed, which Keras never does")
                if entry.file_size > (MOST_BYTES if name.endswith("h5") else MOST_JSON):
                    raise UserError(f"its {name} has {entry.file_size:,} bytes")
            if damaged := archive.testzip():
                raise UserError(f"its {damaged} is damaged; {CURE}")
            shape, weights, largest = sizes_in(json.loads(archive.read("config.json")), image_shape)
            if largest > WIDEST * math.prod(image_shape[:2]):
                raise UserError(f"it asks for {largest:,} values in one layer")
            stored = entries["model.weights.h5"].file_size
            if not 4 * weights <= stored <= PER_WEIGHT * weights + OVERHEAD:
                raise UserError(f"it asks for {weights:,} weights and has {stored:,} bytes of them")
            check_arrays(archive.read("model.weights.h5"), PER_WEIGHT * weights + OVERHEAD)
    except UserError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
        cause = " ".join(str(error).split())
        raise UserError(f"is damaged or no .keras file ({cause}); {CURE}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise UserError("its config.json is not that of a Keras Sequential model") from error
    if shape != [classes]:
        raise UserError(f"its output is {shape}, not [{classes}]")


def read(path: str | Path, image_shape: tuple[int, ...], classes: int) -> bytes:
    """Return the bytes of a `.keras` file after `check`; TensorFlow is not needed for it.

    Raises
    ------
    UserError
        Naming the file, if it is not a model of `image_shape` images to `classes` probabilities.
    """
    try:
        data = read_file(path, MOST_BYTES)
        check(data, image_shape, classes)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path}: is missing; run 'make repro'") from None
        if isinstance(error.__cause__, OSError):
            raise UserError(f"{path}: cannot be read: {reason(error.__cause__)}") from None
        another = "; choose another, or run 'dvc repro' for one that fits"
        raise UserError(f"{path}: {error}{'' if CURE in str(error) else another}") from None
    return data


def load(path: str | Path, image_shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the model that `read` lets through, without its optimizer; raises as it does."""
    data = read(path, image_shape, classes)
    with tempfile.TemporaryDirectory() as folder:  # so that what was checked is what is loaded
        copy = Path(folder) / "model.keras"
        with replacing(copy) as temporary:
            temporary.write_bytes(data)
        try:
            return keras.saving.load_model(copy, compile=False, safe_mode=True)
        except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
            cause = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: Keras cannot load it: {cause}") from None


def are_probabilities(values: NDArray) -> bool:
    """Tell whether (n, k) values are finite and non-negative with rows that sum to 1."""
    return bool(
        np.isfinite(values).all()
        and values.min() >= 0
        and np.abs(values.sum(axis=1) - 1).max() < 1e-2
    )
