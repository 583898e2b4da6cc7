"""An npz of one's own is read, or refused in one line that says what to do."""

import mmap

import numpy as np
import pytest

from cnn.data.readers import read


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
    raw = read(write(arrays | {"classes": np.array(["left", "right", "größer als"])}), None, None)

    np.testing.assert_array_equal(raw.x_train[..., 0], arrays["x_train"])
    np.testing.assert_array_equal(raw.y_test, arrays["y_test"])
    assert raw.x_train.shape == (12, 10, 12, 1)
    assert (raw.x_train.dtype, raw.y_train.dtype) == (np.uint8, np.int64)
    assert raw.classes == ["left", "right", "größer als"]
    assert (raw.notes, raw.published) == ([], None)
    for images in (raw.x_train, raw.x_test):
        while isinstance(images, np.ndarray):
            images = images.base
        assert isinstance(images, mmap.mmap)


def test_an_image_of_zeros_and_ones_is_read_as_floats(arrays, write):
    bits = {name: arrays[name] % 2 for name in ("x_train", "x_test")}

    raw = read(write(arrays | bits), None, None)

    np.testing.assert_array_equal(raw.x_train[..., 0], bits["x_train"])
    assert raw.x_train.dtype == np.float32


def test_without_test_images_and_names_there_is_no_test_and_names_are_numbers(arrays, write):
    """And labels (n, 1) are labels too."""
    only = {"x_train": arrays["x_train"], "y_train": arrays["y_train"][:, None]}

    raw = read(write(only), None, None)

    np.testing.assert_array_equal(raw.y_train, arrays["y_train"])
    assert (raw.x_test, raw.y_test) == (None, None)
    assert raw.classes == ["0", "1", "2"]


def test_images_are_resized_and_converted(arrays, write):
    raw = read(write(arrays), 16, 3)

    assert raw.x_train.shape == (12, 16, 16, 3)
    assert (raw.x_train[..., 0] == raw.x_train[..., 2]).all()
    assert raw.x_train.mean() == pytest.approx(arrays["x_train"].mean(), rel=0.05)


def test_floats_in_0_to_1_are_taken_with_a_note_and_cannot_be_resized(arrays, write, refusal):
    scaled = {name: arrays[name] / 255 for name in ("x_train", "x_test")}
    path = write(arrays | scaled)

    raw = read(path, None, None)

    np.testing.assert_allclose(raw.x_train[..., 0], arrays["x_train"] / 255, atol=1e-7)
    assert raw.x_train.dtype == np.float32
    assert raw.notes[0].startswith("x_train lies in [0, 1] already")
    assert "prepare.image_size and prepare.channels need uint8" in refusal(read, path, 16, None)


def test_dark_on_light_is_a_note(arrays, write):
    light = {name: 255 - arrays[name] for name in ("x_train", "x_test")}

    raw = read(write(arrays | light), None, None)

    assert raw.notes[0].startswith("x_train is dark on light")


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
    (lambda a: {"x_train": a["x_train"].astype(int)}, "x_train is int64 (12, 10, 12); expec"),
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

    message = refusal(read, path, None, None)

    assert message.startswith(f"{path}: ")
    assert reason in message


def test_a_damaged_npz_is_refused(arrays, write, refusal):
    path = write(arrays)
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)

    assert refusal(read, path, None, None).startswith(f"{path}: is damaged or no npz")
