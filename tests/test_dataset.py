"""A set of labelled images is read only when it is whole and as its docstring says."""

import zipfile

import numpy as np
import pytest

from stages.dataset import load, write_arrays


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Three valid images with labels."""
    images = np.linspace(0, 1, 3 * 28 * 28, dtype=np.float32).reshape(3, 28, 28, 1)
    return {"images": images, "labels": np.array([0, 5, 9])}


@pytest.mark.parametrize("compressed", [True, False])
def test_what_is_written_is_read_back(tmp_path, arrays, compressed):
    path = tmp_path / "set.npz"

    write_arrays(path, compressed=compressed, **arrays)
    images, labels = load(path)

    np.testing.assert_array_equal(images, arrays["images"])
    np.testing.assert_array_equal(labels, arrays["labels"])
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("compressed", [True, False])
def test_the_same_arrays_give_the_same_bytes(tmp_path, arrays, compressed):
    for name in ("a", "b"):
        write_arrays(tmp_path / name, compressed=compressed, **arrays)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"images": np.zeros((3, 28, 28, 1))}, "images are float64 (3, 28, 28, 1)"),
        ({"images": np.zeros((3, 28, 28), np.float32)}, "images are float32 (3, 28, 28)"),
        ({"images": np.zeros((3, 8, 8, 1), np.float32)}, "images are float32 (3, 8, 8, 1)"),
        ({"images": np.zeros((0, 28, 28, 1), np.float32)}, "images are float32 (0, 28, 28, 1)"),
        ({"images": np.float32(1)}, "images are float32 ()"),
        ({"images": np.full((3, 28, 28, 1), 2, np.float32)}, "pixels lie in [2.0, 2.0]"),
        ({"images": np.full((3, 28, 28, 1), -1, np.float32)}, "pixels lie in [-1.0, -1.0]"),
        ({"images": np.full((3, 28, 28, 1), np.nan, np.float32)}, "pixels lie in [nan, nan]"),
        ({"labels": np.array([0, 1, 2], np.uint8)}, "labels are uint8 (3,), not int64 (3,)"),
        ({"labels": np.array([0, 1])}, "labels are int64 (2,), not int64 (3,)"),
        ({"labels": np.array([[0], [1], [2]])}, "labels are int64 (3, 1), not int64 (3,)"),
        ({"labels": np.array([0, 1, 10])}, "labels lie in [0, 10]"),
        ({"labels": np.array([0, 1, -1])}, "labels lie in [-1, 1]"),
        ({"labels": np.array(["0", "1", "2"])}, "labels are <U1 (3,)"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, arrays, refusal, broken, reason):
    path = tmp_path / "set.npz"
    write_arrays(path, compressed=False, **(arrays | broken))

    message = refusal(load, path)

    assert message.startswith(f"{path}: {reason}")


def test_a_missing_array_is_named_with_those_found(tmp_path, arrays, refusal):
    path = tmp_path / "set.npz"
    write_arrays(path, compressed=False, pictures=arrays["images"], labels=arrays["labels"])

    assert refusal(load, path) == (f"{path}: has no array 'images'; found ['labels', 'pictures']")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"images,labels\n1,2\n"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, refusal, content):
    path = tmp_path / "set.npz"
    path.write_bytes(content)

    assert refusal(load, path).startswith(f"{path}: is no readable npz")


def test_a_truncated_file_is_refused(tmp_path, arrays, refusal):
    path = tmp_path / "set.npz"
    write_arrays(path, compressed=True, **arrays)
    path.write_bytes(path.read_bytes()[:-100])

    assert refusal(load, path).startswith(f"{path}: is no readable npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_byte_is_noticed_by_the_checksum(tmp_path, arrays, refusal, compressed):
    path = tmp_path / "set.npz"
    write_arrays(path, compressed=compressed, **arrays)
    content = bytearray(path.read_bytes())
    middle = 300 if compressed else 5000  # of an uncompressed array: a pixel, still a number
    content[middle] ^= 1
    path.write_bytes(content)

    assert refusal(load, path).startswith(f"{path}: is no readable npz (")


def test_a_member_that_is_no_array_is_refused(tmp_path, refusal):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"text")
        archive.writestr("labels", b"text")

    assert "holds something else than arrays" in refusal(load, path)


def test_pickled_objects_are_refused(tmp_path, arrays, refusal):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.array([print], dtype=object), labels=arrays["labels"])

    assert refusal(load, path).startswith(f"{path}: is no readable npz")
