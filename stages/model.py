"""The network, and a `.keras` file of it that has the same bytes on every run."""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from stages.dataset import DIGITS, IMAGE_SHAPE
from stages.integrity import check_recorded, replacing
from stages.params import UserError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# A zip entry cannot be older; numpy's npz carry the same date.
EPOCH = (1980, 1, 1, 0, 0, 0)


def build(
    filters: tuple[int, int], kernel_size: int, dense_units: int, dropout: float
) -> "keras.Model":
    """Return the untrained seven-layer CNN: images (n, 28, 28, 1) to probabilities (n, 10).

    With 32 and 64 filters of 3 x 3 and 128 units it has 225,034 parameters. Layers are named, since
    Keras' own names count what the process built before. The softmax computes in float32 whatever
    the precision, so that probabilities sum to 1. Dropout, where it is not 0, is an eighth layer,
    after the flattening.
    """
    import keras
    from keras import layers

    drop = [layers.Dropout(dropout, name="dropout")] if dropout else []
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE, name="images"),
            layers.Conv2D(filters[0], kernel_size, activation="relu", name="convolution_1"),
            layers.MaxPooling2D(2, name="pooling_1"),
            layers.Conv2D(filters[1], kernel_size, activation="relu", name="convolution_2"),
            layers.MaxPooling2D(2, name="pooling_2"),
            layers.Flatten(name="flatten"),
            *drop,
            layers.Dense(dense_units, activation="relu", name="dense"),
            layers.Dense(DIGITS, activation="softmax", dtype="float32", name="probabilities"),
        ],
        name="cnn",
    )


def forward(network: "keras.Model", images: "tf.Tensor") -> "tf.Tensor":
    """Return `network(images, training=True)` to the bit, with each ReLU after its pooling.

    ReLU never changes the order of values, so the greatest of four stays the greatest, and its
    gradient goes the same way. After the pooling a quarter of the values is left to pass through
    it, there and back: 6 % less time a step in bfloat16.
    """
    import keras
    import tensorflow as tf

    values = tf.cast(images, network.get_layer("convolution_1").compute_dtype)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = (
                tf.cast(weight.value, values.dtype) for weight in (layer.kernel, layer.bias)
            )
            values = tf.nn.bias_add(tf.nn.conv2d(values, kernel, 1, "VALID"), bias)
        elif isinstance(layer, keras.layers.MaxPooling2D):
            values = tf.nn.relu(layer(values))
        else:
            values = layer(values, training=True)
    return values


def save(model: "keras.Model", path: str | Path) -> None:
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


def load(path: str | Path) -> "keras.Model":
    """Return the model of a `.keras` file that is whole and, where dvc.lock knows it, the recorded.

    Raises
    ------
    UserError
        The file is missing, damaged, no `.keras` file or a model of another shape.
    """
    import keras

    check_recorded(path)
    try:
        with zipfile.ZipFile(path) as archive:
            # Python 3.12 and later do not check it when Keras reads the weights.
            damaged = archive.testzip()
        if damaged:
            raise UserError(f"{path}: '{damaged}' is damaged (checksum); run 'dvc repro --force'")
        model = keras.models.load_model(path, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: is no readable .keras file ({reason})") from None
    shapes = (model.input_shape[1:], model.output_shape[1:])
    if shapes != (IMAGE_SHAPE, (DIGITS,)):
        raise UserError(
            f"{path}: maps {shapes[0]} to {shapes[1]}, not {IMAGE_SHAPE} to ({DIGITS},)"
        )
    return model
