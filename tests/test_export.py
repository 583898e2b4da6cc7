"""What is exported gives the exact probabilities in its own runtime, or is not written."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn import kernels
from cnn.base.program import silence
from cnn.data import sets
from cnn.model import archive
from cnn.model.network import Network
from tests.helpers.clones import ROOT
from tools import export


@pytest.fixture(scope="module")
def given(prepared, trained) -> tuple[Path, Path]:
    """The small model, and the test images that it is proved by."""
    return trained / "cnn.keras", prepared / "test.npz"


@pytest.fixture(scope="module")
def exact(given) -> tuple[np.ndarray, np.ndarray]:
    """The test images, and the exact probabilities."""
    model_path, test = given
    model, images = archive.read(model_path), np.array(sets.load(test).images)
    return images, kernels.probabilities(model.network, model.weights, images)


def run_onnx(path, images):
    import onnxruntime

    return onnxruntime.InferenceSession(path).run(None, {"images": images})[0]


def run_litert(path, images):
    from tensorflow import lite

    with silence():
        interpreter = lite.Interpreter(str(path))
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(taken["index"], images.shape)
        interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


def run_savedmodel(path, images):
    import tensorflow

    (given,) = (
        tensorflow.saved_model.load(path).signatures["serving_default"](images=images).items()
    )
    assert given[0] == "probabilities"
    return given[1].numpy()


RUNTIMES = {"onnx": run_onnx, "litert": run_litert, "savedmodel": run_savedmodel}


@pytest.mark.parametrize("kind", RUNTIMES)
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_the_runtime_gives_what_the_record_says(kind, given, exact, tmp_path, capsys):
    target = tmp_path / f"cnn{export.SUFFIXES[kind]}"
    images, expected = exact

    export.main([kind, f"--model={given[0]}", f"--test={given[1]}", f"--to={target}"])

    found = RUNTIMES[kind](target, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(RUNTIMES[kind](target, images[:1]), expected[:1], rtol=0, atol=1e-5)
    record = json.loads((tmp_path / f"{target.name}.json").read_text())
    assert record["largest_difference"] == pytest.approx(np.abs(found - expected).max(), abs=1e-6)
    assert record["other_class"] == (found.argmax(1) != expected.argmax(1)).sum() == 0
    assert record["images"] == len(images) > 100
    assert record["model_sha256"] == hashlib.sha256(given[0].read_bytes()).hexdigest()
    assert record["sha256"] == export.digest(target)
    assert sorted(tmp_path.iterdir()) == sorted([target, tmp_path / f"{target.name}.json"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{target}: {record['bytes']:,} bytes; ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "network",
    [
        Network((9, 8, 3), (3, 5), 2, "same", (), 0.0, 2),
        Network((28, 28, 1), (4,), 5, "valid", (6, 7), 0.5, 10),
        Network((16, 12, 1), (2, 3, 4), 4, "same", (8,), 0.0, 3),
    ],
    ids=lambda network: f"{network.kernel_size} {network.padding}",
)
def test_each_network_is_written_as_onnx(network, tmp_path):
    import onnx

    random = np.random.default_rng(0)
    weights = [random.normal(0, 0.2, shape).astype(np.float32) for shape in network.shapes()]
    images = random.random((20, *network.image_shape), np.float32)

    export.write_onnx(tmp_path / "cnn.onnx", network, weights)

    onnx.checker.check_model(tmp_path / "cnn.onnx", full_check=True)
    expected = kernels.probabilities(network, weights, images)
    found = run_onnx(tmp_path / "cnn.onnx", images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_onnx_has_the_same_bytes_on_every_run(given, tmp_path):
    written = []
    for seed in ("1", "2"):
        target = tmp_path / seed / "cnn.onnx"
        command = [sys.executable, "-m", "tools.export", "onnx", "--model", given[0]]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run(
            [*command, "--test", given[1], "--to", target], check=True, cwd=ROOT, env=environment
        )
        written.append(target.read_bytes())

    assert written[0] == written[1]


def test_a_file_that_gives_others_is_not_written(given, tmp_path, monkeypatch, refusal):
    """A weight is damaged on its way into the file; an earlier, good file stays."""
    target = tmp_path / "cnn.onnx"
    export.export("onnx", *given, target)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write = export.write_onnx

    def damaged(path, network, weights):
        weights = [array.copy() for array in weights]
        weights[-1][0] += 1e-3
        return write(path, network, weights)

    monkeypatch.setattr(export, "write_onnx", damaged)

    message = refusal(export.export, "onnx", *given, target)

    assert message.startswith(f"{target}: would give probabilities that differ by up to ")
    assert message.endswith(" from the exact ones, more than 1e-05; it is not written")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_values_that_are_no_numbers_are_refused(given, tmp_path, monkeypatch, refusal):
    write = export.write_onnx
    monkeypatch.setattr(
        export,
        "write_onnx",
        lambda path, network, weights: write(path, network, [w * np.nan for w in weights]),
    )

    assert "differ by up to nan" in refusal(export.export, "onnx", *given, tmp_path / "cnn.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(package, given, tmp_path, monkeypatch, refusal):
    monkeypatch.setitem(sys.modules, package, None)

    message = refusal(export.export, "onnx", *given, tmp_path / "cnn.onnx")

    install = "pip install --require-hashes -r requirements-export.txt"
    assert message == f"{package} is not installed; run '{install}'"


def test_other_layers_go_through_keras(given, tmp_path, tf, refusal):
    import keras

    model_path, target = tmp_path / "other.keras", tmp_path / "other.savedmodel"
    layers = keras.layers
    keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(4, 3, strides=2, activation="gelu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    ).save(model_path)

    message = refusal(export.export, "onnx", model_path, given[1], tmp_path / "other.onnx")
    record = export.export("savedmodel", model_path, given[1], target)

    assert message.endswith("; 'litert' and 'savedmodel' take any of Keras'")
    assert record["compared_with"] == "Keras"
    images = np.array(sets.load(given[1]).images)
    expected = keras.models.load_model(model_path).predict(images, verbose=0)
    np.testing.assert_allclose(run_savedmodel(target, images), expected, rtol=0, atol=1e-5)
    export.export("savedmodel", model_path, given[1], target)  # over the earlier one


def test_nothing_but_an_earlier_export_is_written_over(given, tmp_path, refusal):
    folder = tmp_path / "photos.savedmodel"
    folder.mkdir()
    (folder / "photo.png").write_bytes(b"")

    for kind, target, reason in (
        ("onnx", given[0], "does not end in .onnx"),
        ("savedmodel", folder, "is no earlier export"),
    ):
        message = refusal(export.export, kind, *given, target)
        assert message.startswith(f"{target}: {reason}; ")
    assert (folder / "photo.png").is_file()
