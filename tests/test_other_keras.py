"""The model opens in other versions of Keras, goes on training there, and what they save is read.

The versions are those of tests/keras/; `make test` puts each into a folder of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn import kernels
from cnn.data import sets
from cnn.model import archive

HERE = Path(__file__).parent
VERSIONS = sorted(path.stem for path in (HERE / "keras").glob("*.txt"))
TOLERANCE = 1e-5  # of a probability: TensorFlow sums in another order than the kernels

# As docs/experiments.md has it: load, train further, or compile by hand and train further; save.
PROGRAM = """
import sys

# Keras imports these where they are, for what is not used here.
sys.modules.update(dict.fromkeys(("matplotlib", "pandas", "PIL", "scipy", "sklearn")))
import keras
import numpy as np

model_path, given_path, saved_path, found_path = sys.argv[1:]
given = np.load(given_path)
images, labels = given["images"], given["labels"]
found = {"version": keras.__version__}


def look(name):
    found[name] = model.predict(images, batch_size=500, verbose=0)
    found[f"{name}_steps"] = int(np.asarray(model.optimizer.iterations))


def step():
    model.fit(images, labels, batch_size=len(images), epochs=1, shuffle=False, verbose=0)


model = keras.models.load_model(model_path)
look("loaded")
step()
look("continued")
model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
step()
look("compiled")
model.save(saved_path)
np.savez(found_path, **found)
"""


class Found:
    """What one version of Keras made of the model: arrays by name, and the file that it saved."""

    def __init__(self, folder: Path, version: str | None, model: Path, given: Path):
        self.saved, found = folder / "saved.keras", folder / "found.npz"
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        if version:
            place = Path(sys.prefix, f"keras-{version}")
            assert place.is_dir(), f"{place} is missing; 'make test' brings it"
            environment["PYTHONPATH"] = str(place)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, model, given, self.saved, found],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        with np.load(found) as arrays:
            self.arrays = dict(arrays)


@pytest.fixture(scope="module")
def given(prepared) -> Path:
    """Images and labels in an npz, the small test set of the tests."""
    return prepared / "test.npz"


@pytest.fixture(scope="module")
def locked(trained, given, tmp_path_factory) -> Found:
    """What the locked Keras makes of the model."""
    return Found(tmp_path_factory.mktemp("locked"), None, trained / "cnn.keras", given)


@pytest.fixture(scope="module", params=VERSIONS)
def other(request, trained, given, tmp_path_factory) -> tuple[str, Found]:
    folder = tmp_path_factory.mktemp("other")
    return request.param, Found(folder, request.param, trained / "cnn.keras", given)


def exact(path: Path, given: Path) -> np.ndarray:
    images, _, classes = sets.load(given)
    model = archive.read(path, images.shape[1:], len(classes))
    return kernels.probabilities(model.network, model.weights, images)


def test_the_probabilities_are_those_recorded(other, trained, given):
    version, found = other

    assert found.arrays["version"] == version
    expected = exact(trained / "cnn.keras", given)
    np.testing.assert_allclose(found.arrays["loaded"], expected, rtol=0, atol=TOLERANCE)


def test_the_training_goes_on_where_it_ended(other, locked):
    """With the optimizer's state: a step from other moments would lead elsewhere."""
    _, found = other

    assert found.arrays["loaded_steps"] == locked.arrays["loaded_steps"] > 1
    assert found.arrays["continued_steps"] == found.arrays["loaded_steps"] + 1
    assert np.abs(found.arrays["continued"] - found.arrays["loaded"]).max() > 100 * TOLERANCE
    np.testing.assert_allclose(
        found.arrays["continued"], locked.arrays["continued"], rtol=0, atol=TOLERANCE
    )


def test_what_it_saves_after_more_training_is_read(other, given):
    _, found = other

    np.testing.assert_allclose(
        exact(found.saved, given), found.arrays["compiled"], rtol=0, atol=TOLERANCE
    )
