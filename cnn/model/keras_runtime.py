"""Keras and TensorFlow, imported where a model of theirs is needed, and nowhere else."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError, brief
from cnn.base.files import REPAIR
from cnn.base.npz import ZIP_ERRORS
from cnn.base.program import silence

# Keras imports these where they are installed, for wrappers and pictures that no stage uses.
# Without them they start in two thirds of the time.
OPTIONAL = ("matplotlib", "pandas", "PIL", "scipy", "sklearn")


def start_keras(seed: int = 0, precision: str = "float32") -> ModuleType:
    """Import TensorFlow and Keras, quietly, and seed what they draw; return Keras.

    Parameters
    ----------
    seed : Python's, numpy's and TensorFlow's.
    precision : Keras' dtype policy, "float32" or "mixed_bfloat16".
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # it reports its memory, later too
    with silence(), _hidden(OPTIONAL):
        keras, tensorflow = import_module("keras"), import_module("tensorflow")
        tensorflow.config.list_physical_devices()  # CUDA complains here where there is none
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(seed)
    return keras


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Let `import` fail for these modules, unless they are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None is how Python marks a module as not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def layer_not_finite(model: object) -> str:
    """Name a layer of a Keras model with a weight that is not finite, "" if there is none.

    Outputs and loss do not show it: a ReLU makes 0 of NaN.
    """
    for layer in model.layers:
        if not all(np.isfinite(np.asarray(weight)).all() for weight in layer.weights):
            return layer.name
    return ""


def predict(path: str | Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities, float32 (n, k), that a Keras model gives for images.

    Keras builds what the file describes, in its safe mode: only for what `train` itself wrote.

    Parameters
    ----------
    images : float32 (n, h, w, c) in [0, 1].

    Raises
    ------
    UserError
        It is missing, damaged or for other images, or a layer's weights are not finite.
    """
    keras = start_keras()
    try:
        with zipfile.ZipFile(path) as file:  # Keras takes what is no zip for missing
            if broken := file.testzip():
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {broken!r}")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; run 'make repro'") from None
    except (*ZIP_ERRORS, TypeError, AttributeError) as error:
        cause = brief(" ".join(str(error).split()), 200)[1:-1]
        raise UserError(f"{path}: Keras cannot load it ({cause}); {REPAIR}") from None
    if layer := layer_not_finite(model):
        raise UserError(
            f"{path}: its layer {layer} has weights that are not finite; "
            "run 'dvc repro --force train'"
        )
    try:
        return model.predict(images, batch_size=500, verbose=0)  # larger ones are no faster
    except ValueError:
        shape = list(images.shape[1:])
        raise UserError(
            f"{path}: does not take images of {shape}; run 'dvc repro --force train'"
        ) from None
