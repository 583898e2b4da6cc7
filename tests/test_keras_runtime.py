"""TensorFlow is imported where it is needed alone, quietly and seeded."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn.model import keras_runtime

ROOT = Path(__file__).parent.parent


def test_the_library_imports_no_tensorflow_until_it_is_used(tmp_path):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")
    code = "import cnn.kernels, cnn.model.archive, cnn.training.engine\n"
    code += "import stages.train, stages.evaluate, handwriting.predict"

    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment)

    assert done.returncode == 0


def test_tensorflow_starts_quietly_without_what_no_stage_uses_and_finds_it_afterwards():
    code = """if True:
        import sys
        from cnn.model import keras_runtime
        keras = keras_runtime.start_keras(seed=3)
        assert {"tensorflow", "keras"} <= set(sys.modules)
        assert not set(keras_runtime.OPTIONAL) & set(sys.modules)
        assert keras.config.backend() == "tensorflow"
        import pandas
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_source_of_chance_is_seeded(tf):
    drawn = []
    for seed in (7, 7, 8):
        keras = keras_runtime.start_keras(seed)
        drawn.append(
            (
                random.random(),
                np.random.random(),
                float(keras.random.uniform(())),
                float(tf.random.uniform(())),
            )
        )

    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])
def test_the_precision_is_keras_dtype_policy(tf, precision):
    keras = keras_runtime.start_keras(1, precision)

    assert keras.config.dtype_policy().name == precision


def test_what_the_user_has_set_for_tensorflow_stays(tf, monkeypatch):
    names = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "CUDA_VISIBLE_DEVICES")
    for name in names:
        monkeypatch.setenv(name, "0")

    keras_runtime.start_keras()

    assert {os.environ[name] for name in names} == {"0"}


def test_an_error_in_an_import_is_raised_and_leaves_all_as_it_was(capfd, monkeypatch):
    monkeypatch.setattr(keras_runtime, "import_module", lambda name: 1 / 0)
    monkeypatch.delitem(sys.modules, "pandas", raising=False)

    with pytest.raises(ZeroDivisionError):
        keras_runtime.start_keras()
    os.write(2, b"after")

    assert capfd.readouterr().err == "after"
    assert "pandas" not in sys.modules  # None there would make it impossible to import
