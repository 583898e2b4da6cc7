"""The raw images are checked, normalized and split as Keras would split them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages import prepare
from stages.dataset import load, write_arrays

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "validation", "test")


def flags(raw: Path, folder: Path, params_yaml: Path) -> list[str]:
    return [
        f"--params={params_yaml}",
        f"--raw={raw}",
        *(f"--{split}={folder / split}.npz" for split in SPLITS),
    ]


def test_the_splits_are_the_raw_images_in_their_order(prepared, raw):
    expected = {
        "train": (raw["x_train"][:450], raw["y_train"][:450]),
        "validation": (raw["x_train"][450:], raw["y_train"][450:]),
        "test": (raw["x_test"], raw["y_test"]),
    }
    for split, (raw_images, raw_labels) in expected.items():
        images, labels = load(prepared / f"{split}.npz")

        np.testing.assert_array_equal(np.rint(images[..., 0] * 255), raw_images)
        np.testing.assert_array_equal(labels, raw_labels)


def test_the_arrays_have_the_documented_form(prepared):
    for split, n in zip(SPLITS, (450, 50, 200), strict=True):
        with np.load(prepared / f"{split}.npz") as arrays:
            images, labels = arrays["images"], arrays["labels"]

        assert (images.dtype, images.shape) == (np.float32, (n, 28, 28, 1))
        assert (labels.dtype, labels.shape) == (np.int64, (n,))
        assert (images.min(), images.max()) == (0, 1)


def test_normalizing_divides_by_255():
    raw_images = np.zeros((1, 28, 28), np.uint8)
    raw_images[0, 0, :3] = 0, 51, 255

    images = prepare.normalize(raw_images, np.array([3], np.uint8))["images"]

    np.testing.assert_array_equal(images[0, 0, :3, 0], np.array([0, 0.2, 1], np.float32))


@pytest.mark.parametrize(
    ("n", "share", "start"), [(60_000, 0.1, 54_000), (500, 0.1, 450), (7, 0.5, 3), (10, 0.33, 6)]
)
def test_validation_starts_where_it_should(n, share, start):
    assert prepare.validation_start(n, share) == start


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("n", [10, 997, 60_000])
def test_validation_starts_where_keras_lets_it_start(tf, n, share):
    from keras.src.trainers.data_adapters.array_slicing import train_validation_split

    (training, _), _ = train_validation_split((np.arange(n), np.arange(n)), share)

    assert prepare.validation_start(n, share) == len(training)


@pytest.mark.parametrize(("n", "share"), [(5, 1e-17), (5, 0.9999)])
def test_a_share_that_leaves_a_split_empty_is_refused(refusal, n, share):
    message = refusal(prepare.validation_start, n, share)

    assert message.startswith(f"prepare.validation_share is {share}: of {n} images")


@pytest.fixture
def refused(tmp_path, tiny_yaml, raw, refusal):
    """Run the stage on raw arrays with some replaced; return the message, nothing is written."""

    def call(**replaced: np.ndarray) -> str:
        path = tmp_path / "mnist.npz"
        write_arrays(path, compressed=False, **(raw | replaced))
        message = refusal(prepare.main, flags(path, tmp_path / "prepared", tiny_yaml))
        assert not (tmp_path / "prepared").exists()
        assert message.startswith(f"{path}: ")
        return message.removeprefix(f"{path}: ")

    return call


@pytest.mark.parametrize("split", ["train", "test"])
def test_odd_raw_data_is_refused(refused, raw, split):
    x, y = f"x_{split}", f"y_{split}"
    images, labels = raw[x], raw[y]
    n = len(images)

    assert f"{x} is float64 ({n}, 28, 28); expected uint8" in refused(**{x: images / 255})
    assert f"{x} is uint8 ({n}, 8, 28);" in refused(**{x: images[:, :8]})
    assert f"{x} is uint8 ({n}, 28, 28, 1);" in refused(**{x: images[..., None]})
    assert f"{x} is uint8 ();" in refused(**{x: np.uint8(1)})
    assert f"{y} is int64 ({n},); expected uint8" in refused(**{y: labels.astype(np.int64)})
    assert f"{y} is uint8 ({n}, 1);" in refused(**{y: labels[:, None]})
    assert f"{x} has {n - 1} images, {y} {n} labels" == refused(**{x: images[1:]})
    assert f"{y} lacks the digits [7]" in refused(**{y: np.where(labels == 7, 1, labels)})
    assert f"{y} holds the label 10;" in refused(**{y: np.append(labels[1:], np.uint8(10))})


def test_empty_raw_data_is_refused(refused, raw):
    message = refused(x_train=raw["x_train"][:0], y_train=raw["y_train"][:0])

    assert message.startswith("y_train lacks the digits [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")


def test_an_odd_range_of_pixels_is_refused(refused, raw):
    images = raw["x_train"]

    divided = refused(x_train=(images > 127).astype(np.uint8))
    inverted = refused(x_train=255 - images)
    raised = refused(x_train=np.maximum(images, 1))
    black = refused(x_train=np.zeros_like(images))

    assert divided.startswith("x_train has pixels from 0 to 1, ")
    assert inverted.startswith("x_train has pixels from 0 to 255, mean 1")
    assert raised.startswith("x_train has pixels from 1 to 255, ")
    assert black.startswith("x_train has pixels from 0 to 0, ")


def test_a_missing_array_is_refused(tmp_path, tiny_yaml, raw, refusal):
    path = tmp_path / "mnist.npz"
    write_arrays(path, compressed=False, x_train=raw["x_train"], y_train=raw["y_train"])

    message = refusal(prepare.main, flags(path, tmp_path, tiny_yaml))

    assert message.startswith(f"{path}: has no array 'x_test'")


def test_a_missing_file_is_refused(tmp_path, tiny_yaml, refusal):
    path = tmp_path / "mnist.npz"

    assert f"{path}: cannot be read" in refusal(prepare.main, flags(path, tmp_path, tiny_yaml))


def test_another_share_moves_the_border(tmp_path, raw_npz):
    params_yaml = tmp_path / "params.yaml"
    params_yaml.write_text(yaml.safe_dump({"prepare": {"validation_share": 0.4}}))

    prepare.main(flags(raw_npz, tmp_path, params_yaml))

    assert [len(load(tmp_path / f"{split}.npz")[1]) for split in SPLITS] == [300, 200, 200]


def test_the_stage_gives_the_same_bytes_again_and_does_not_import_tensorflow(
    tmp_path, prepared, raw_npz, tiny_yaml
):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")

    subprocess.run(
        [sys.executable, "-m", "stages.prepare", *flags(raw_npz, tmp_path, tiny_yaml)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )

    for split in SPLITS:
        assert (tmp_path / f"{split}.npz").read_bytes() == (prepared / f"{split}.npz").read_bytes()
