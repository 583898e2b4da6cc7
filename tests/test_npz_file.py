"""An npz of one's own is read, by Keras' names of its arrays, MedMNIST's or the like."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from cnn.data.raw import Options
from cnn.data.readers import read

ROOT = Path(__file__).parent.parent


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Twelve training and six test images, uint8 (n, 10, 12), of three classes."""
    images = np.random.default_rng(0).integers(0, 100, (18, 10, 12), dtype=np.uint8)
    labels = np.arange(18) % 3
    return {
        "x_train": images[:12],
        "y_train": labels[:12],
        "x_test": images[12:],
        "y_test": labels[12:],
    }


@pytest.fixture
def write(tmp_path):
    def call(arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return tmp_path / "mine.npz"

    return call


def test_the_arrays_come_as_they_are_and_are_mapped(arrays, write):
    raw = read(write(arrays | {"classes": np.array(["left", "right", "größer als"])}))

    np.testing.assert_array_equal(raw.splits["train"].images[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(raw.splits["test"].labels, arrays["y_test"])
    assert raw.splits["train"].images.shape == (12, 10, 12, 1)
    assert (raw.splits["train"].images.dtype, raw.splits["train"].labels.dtype) == (
        np.uint8,
        np.int64,
    )
    assert raw.classes == ["left", "right", "größer als"]
    assert (raw.notes, raw.published) == ([], None)
    for images in (split.images for split in raw.splits.values()):
        while isinstance(images, np.ndarray):
            images = images.base
        assert isinstance(images, mmap.mmap)


def test_without_test_images_and_names_there_is_no_test_and_names_are_numbers(arrays, write):
    """And labels (n, 1) are labels too."""
    only = {"x_train": arrays["x_train"], "y_train": arrays["y_train"][:, None]}

    raw = read(write(only))

    np.testing.assert_array_equal(raw.splits["train"].labels, arrays["y_train"])
    assert list(raw.splits) == ["train"]
    assert raw.classes == ["0", "1", "2"]


def test_images_are_resized_and_converted(arrays, write):
    raw = read(write(arrays), Options(size=16, channels=3))

    assert raw.splits["train"].images.shape == (12, 16, 16, 3)
    assert (raw.splits["train"].images[..., 0] == raw.splits["train"].images[..., 2]).all()
    assert raw.splits["train"].images.mean() == pytest.approx(arrays["x_train"].mean(), rel=0.05)


def test_floats_in_0_to_1_are_taken_with_a_note_and_cannot_be_resized(arrays, write, refusal):
    scaled = {name: arrays[name] / 255 for name in ("x_train", "x_test")}
    path = write(arrays | scaled)

    raw = read(path)

    np.testing.assert_allclose(
        raw.splits["train"].images[..., 0], arrays["x_train"] / 255, atol=1e-7
    )
    assert raw.splits["train"].images.dtype == np.float32
    assert raw.notes[0].startswith("x_train lies in [0, 1] already")
    assert "prepare.image_size and prepare.channels need uint8" in refusal(
        read, path, Options(size=16)
    )


UNUSABLE = [
    (lambda a: {"y_train": a["y_train"].astype(float)}, "y_train.astype('int64')"),
    (lambda a: {"y_train": a["y_train"].astype(str)}, "y_train is <U"),
    (lambda a: {"y_train": a["y_train"] + 1}, "y_train starts at 1; labels count"),
    (lambda a: {"y_train": a["y_train"] * 2}, "y_train has no image of label 1"),
    (lambda a: {"y_train": a["y_train"] - 1}, "y_train starts at -1"),
    (
        lambda a: {"y_train": a["y_train"] * 0, "y_test": a["y_test"] * 0},
        "1 classes (['0']); 2 to 100 are possible",
    ),
    (lambda a: {"y_train": np.arange(12) * 10}, "y_train has labels up to 110; at most 100"),
    (lambda a: {"y_test": a["y_test"] + 1}, "y_test holds the label 3, which y_train does not"),
    (lambda a: {"y_test": a["y_test"] * 0}, "no test image of class 1, 2; each class needs"),
    (lambda a: {"y_train": a["y_train"][1:]}, "x_train has 12 images, y_train 11 labels"),
    (lambda a: {"x_test": a["x_test"][:, :9]}, "x_test has images of (9, 12, 1), x_train of"),
    (lambda a: {"x_train": a["x_train"] + 0.5}, "x_train has floats from"),
    (lambda a: {"x_train": a["x_train"] * np.nan}, "x_train has floats from nan to nan"),
    (lambda a: {"x_train": a["x_train"].astype(int) - 1}, "x_train has whole numbers from -1 to"),
    (lambda a: {"x_train": a["x_train"] * np.uint16(257)}, "'x_train // 257' makes 8 bits of 16"),
    (lambda a: {"y_train": np.eye(12, 3) + np.eye(12, 3, 1)}, "y_train has images of several"),
    (
        lambda a: {"x_train": a["x_train"].reshape(12, -1)[:, :99]},
        "99 pixels per image, which is no",
    ),
    (lambda a: {"y_val": a["y_test"]}, "has 'y_val' but no images for it"),
    (lambda a: {"train_images": a["x_train"]}, "are both images of train"),
    (lambda a: {"groups_train": np.arange(3)}, "groups_train is (3,); expected (12,)"),
    (lambda a: {"x_train": a["x_train"][:0]}, "x_train has no images"),
    (lambda a: {"x_train": np.uint8(1)}, "x_train is uint8 ()"),
    (lambda a: {"classes": np.array(["a", "b"])}, "y_train holds labels from 0 to 2; 2 classes"),
    (lambda a: {"classes": np.array(list("abcd"))}, "no train image of class d"),
    (lambda a: {"classes": np.array(["a", "A", "b"])}, "classes 'a' and 'A' differ by case"),
    (
        lambda a: {f"x_{split}": a[f"x_{split}"][:, :7] for split in ("train", "test")},
        "images are 7 x 12 pixels; sides may have 8 to 256; prepare.image_size resizes",
    ),
    (
        lambda a: {
            f"x_{split}": np.stack([a[f"x_{split}"]] * 2, -1) for split in ("train", "test")
        },
        "images have 2 channels; 1 (grey) or 3 (colour) are possible",
    ),
]


@pytest.mark.parametrize(("change", "reason"), UNUSABLE, ids=[reason for _, reason in UNUSABLE])
def test_what_cannot_be_used_is_one_line(arrays, write, refusal, change, reason):
    path = write(arrays | change(arrays))

    message = refusal(read, path)

    assert message.startswith(f"{path}: ")
    assert reason in message


def test_a_damaged_npz_is_refused(arrays, write, refusal):
    path = write(arrays)
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)

    message = refusal(read, path)

    assert message.startswith(f"{path}: is damaged or no npz")
    assert "make it again" in message


def test_medmnists_names_and_labels_are_read_and_given_validation_images_used(arrays, tmp_path):
    names = {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images"}
    given = {names.get(name, "test_labels"): array for name, array in arrays.items()}
    given |= {"val_images": arrays["x_test"][::-1], "val_labels": arrays["y_test"][::-1]}
    labels = {name: given[name][:, None] for name in given if "labels" in name}
    np.savez_compressed(tmp_path / "bloodmnist.npz", **(given | labels))

    raw = read(tmp_path / "bloodmnist.npz")

    assert list(raw.splits) == ["train", "validation", "test"]
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        np.testing.assert_array_equal(raw.splits[split].images[..., 0], given[f"{name}_images"])
        np.testing.assert_array_equal(raw.splits[split].labels, given[f"{name}_labels"])


def test_channels_first_are_brought_last_with_a_note(arrays, write):
    colour = {
        name: np.stack([arrays[name], arrays[name] // 2, arrays[name] * 0], 1)
        for name in ("x_train", "x_test")
    }

    raw = read(write(arrays | colour))

    np.testing.assert_array_equal(raw.splits["train"].images[..., 1], arrays["x_train"] // 2)
    assert raw.splits["test"].images.shape == (6, 10, 12, 3)
    assert raw.notes[0] == (
        "x_train is (12, 3, 10, 12): channels first, brought to (n, h, w, channels)"
    )


def test_flat_images_one_hot_labels_and_groups(arrays, write):
    images = arrays["x_train"][:, :, :10]
    given = {"X": images.reshape(12, 100), "y": np.eye(3)[arrays["y_train"]]}

    raw = read(write(given | {"groups": np.repeat([3, 5], 6)}))

    np.testing.assert_array_equal(raw.splits["train"].images[..., 0], images)
    np.testing.assert_array_equal(raw.splits["train"].labels, arrays["y_train"])
    assert raw.splits["train"].groups.tolist() == ["3"] * 6 + ["5"] * 6
    assert raw.notes == ["X has 100 pixels per image, 10 x 10"]
