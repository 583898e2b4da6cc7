"""A set of labelled images is read only when it is whole and as its docstring says."""

import hashlib
import zipfile

import numpy as np
import pytest

from cnn import data
from cnn.data import load
from cnn.files import CURE
from cnn.npz import read_arrays, write_arrays

FORM = (28, 28, 1)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Three valid images with labels and classes."""
    images = np.linspace(0, 1, 3 * 28 * 28, dtype=np.float32).reshape(3, *FORM)
    return {
        "images": images,
        "labels": np.array([0, 2, 1]),
        "classes": np.array(["ant", "bee", "Käfer"]),
    }


@pytest.mark.parametrize("write", [write_arrays, np.savez_compressed])
def test_what_is_written_is_read_back(tmp_path, arrays, write):
    path = tmp_path / "set.npz"

    write(path, **arrays)
    found = load(path)

    for name in data.Data._fields:
        np.testing.assert_array_equal(getattr(found, name), arrays[name])
    assert (found.images.dtype, found.labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    "form", [(8, 256, 3), (8, 8, 1), (32, 32, 3)], ids=["narrow", "smallest", "colour"]
)
def test_images_of_any_form_are_saved_and_loaded(tmp_path, form):
    path = tmp_path / "set.npz"
    images = np.random.default_rng(0).random((4, *form), np.float32)
    names = np.array([f"class {number}" for number in range(100)])

    data.save(path, data.Data(images, np.array([0, 99, 50, 7]), names))

    np.testing.assert_array_equal(load(path).images, images)
    assert load(path).classes.tolist() == names.tolist()


def test_the_same_arrays_give_the_same_bytes_whatever_zlib_python_has(
    tmp_path, arrays, monkeypatch
):
    write_arrays(tmp_path / "a", **arrays)
    monkeypatch.setattr("zlib.compressobj", None)
    write_arrays(tmp_path / "b", **arrays)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"images": np.zeros((3, *FORM))}, "images are float64 (3, 28, 28, 1)"),
        ({"images": np.zeros((3, 28, 28), np.float32)}, "images are float32 (3, 28, 28)"),
        ({"images": np.zeros((0, *FORM), np.float32)}, "images are float32 (0, 28, 28, 1)"),
        ({"images": np.float32(1)}, "images are float32 ()"),
        ({"images": np.zeros((3, 7, 28, 1), np.float32)}, "images are 7 x 28 pixels"),
        ({"images": np.zeros((3, 28, 257, 1), np.float32)}, "images are 28 x 257 pixels"),
        ({"images": np.zeros((3, 28, 28, 2), np.float32)}, "images have 2 channels"),
        ({"images": np.full((3, *FORM), 2, np.float32)}, "pixels lie in [2.0, 2.0]"),
        ({"images": np.full((3, *FORM), -1, np.float32)}, "pixels lie in [-1.0, -1.0]"),
        ({"images": np.full((3, *FORM), np.nan, np.float32)}, "pixels lie in [nan, nan]"),
        ({"labels": np.array([0, 1, 2], np.uint8)}, "labels are uint8 (3,), not int64 (3,)"),
        ({"labels": np.array([0, 1])}, "labels are int64 (2,), not int64 (3,)"),
        ({"labels": np.array([[0], [1], [2]])}, "labels are int64 (3, 1), not int64 (3,)"),
        ({"labels": np.array([0, 1, 3])}, "labels lie in [0, 3], not in [0, 2] of 3 classes"),
        ({"labels": np.array([0, 1, -1])}, "labels lie in [-1, 1]"),
        ({"labels": np.array(["0", "1", "2"])}, "labels are <U1 (3,)"),
        ({"classes": np.arange(3)}, "classes are int64 (3,), not str (k,)"),
        ({"classes": np.array([["a", "b"]])}, "classes are <U1 (1, 2), not str (k,)"),
        ({"classes": np.array(["a", "b", "A"])}, "classes 'a' and 'A' differ by case at most"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, arrays, refusal, broken, reason):
    path = tmp_path / "set.npz"
    write_arrays(path, **(arrays | broken))

    message = refusal(load, path)

    assert message.startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a"], "1 classes (['a']); 2 to 100 are possible"),
        ([], "0 classes"),
        ([str(number) for number in range(101)], "101 classes (['0', '1', "),
        (["a", " b"], "class ' b': a name has 1 to 60 characters, no blank ends"),
        (["a", ""], "class '': a name has"),
        (["a", "b" * 61], "class 'bbb"),
        (["a", "b\nc"], r"class 'b\nc': a name is of printable characters"),
        (["a", "b\u202ec"], r"class 'b\u202ec': a name is of printable characters"),
        (["a", "<b>"], "class '<b>': a name is of printable characters, none of <>|`\\"),
        (["a", "b|c"], "class 'b|c'"),
        (["a", "`b`"], "class '`b`'"),
        (["Apfel", "apfel"], "classes 'Apfel' and 'apfel' differ by case at most; rename one"),
        (["caf\u00e9", "cafe\u0301"], "differ by case at most"),
    ],
)
def test_names_of_classes_that_a_table_or_a_folder_cannot_hold_are_refused(names, problem):
    found = data.problem_of_classes(names)

    assert problem in found
    assert len(found) < 200


@pytest.mark.parametrize(
    "names", [["0", "1"], ["T-shirt/top", "Ankle boot"], ["ß", "日本", "a" * 60], ["$1", "*x*"]]
)
def test_other_names_of_classes_pass(names):
    assert data.problem_of_classes(names) == ""


def test_a_missing_array_is_named_with_those_found(tmp_path, arrays, refusal):
    path = tmp_path / "set.npz"
    write_arrays(path, pictures=arrays["images"], labels=arrays["labels"])

    message = refusal(load, path)

    assert message.startswith(f"{path}: has no array 'images'; found ['labels', 'pictures']; ")


def test_a_missing_file_is_named_with_the_cure(tmp_path, refusal):
    path = tmp_path / "set.npz"

    assert refusal(load, path) == f"{path}: is missing; run 'dvc repro'"


def is_damaged(path, message: str) -> bool:
    return message.startswith(f"{path}: is damaged or no npz (") and message.endswith(CURE)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"images,labels\n1,2\n"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, refusal, content):
    path = tmp_path / "set.npz"
    path.write_bytes(content)

    assert is_damaged(path, refusal(load, path))


def test_a_single_array_is_refused(tmp_path, refusal):
    path = tmp_path / "set.npz"
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))

    assert is_damaged(path, refusal(load, path))


def test_a_truncated_file_is_refused(tmp_path, arrays, refusal):
    path = tmp_path / "set.npz"
    write_arrays(path, **arrays)
    path.write_bytes(path.read_bytes()[:-100])

    assert is_damaged(path, refusal(load, path))


@pytest.mark.parametrize(
    ("write", "place"),
    [(write_arrays, 5000), (np.savez_compressed, 300)],  # the one is a pixel, still a number
)
def test_a_flipped_byte_is_noticed_by_the_checksum(tmp_path, arrays, refusal, write, place):
    path = tmp_path / "set.npz"
    write(path, **arrays)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)

    assert is_damaged(path, refusal(load, path))


@pytest.mark.parametrize(
    ("field", "bit"), [(6, 128), (8, 1), (8, 64), (10, 1)], ids=["version", "key", "keys", "method"]
)
def test_a_flipped_bit_in_the_table_of_contents_is_noticed(tmp_path, arrays, refusal, field, bit):
    path = tmp_path / "set.npz"
    write_arrays(path, **arrays)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\1\2") + field] ^= bit  # of the zip's central directory
    path.write_bytes(content)

    assert is_damaged(path, refusal(load, path))


def test_an_array_that_is_not_asked_for_is_not_read(tmp_path, arrays):
    path = tmp_path / "set.npz"
    write_arrays(path, **arrays)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1  # a pixel
    path.write_bytes(content)

    (labels,) = read_arrays(path, ("labels",))

    np.testing.assert_array_equal(labels, arrays["labels"])


def test_a_member_that_is_no_array_is_refused(tmp_path, refusal):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in data.Data._fields:
            archive.writestr(name, b"text")

    assert is_damaged(path, refusal(load, path))


def test_pickled_objects_are_refused(tmp_path, arrays, refusal):
    path = tmp_path / "set.npz"
    np.savez(path, **(arrays | {"images": np.array([print], dtype=object)}))

    assert is_damaged(path, refusal(load, path))


def test_a_fingerprint_is_blake2b_of_the_pixels():
    images = np.random.default_rng(0).random((3, *FORM), np.float32)
    images[2] = images[0]

    found = data.fingerprints(images)

    expected = hashlib.blake2b(images[0].tobytes(), digest_size=8).hexdigest()
    assert (found[0], found[2]) == (expected, expected)
    assert found[1] != found[0]
    assert len(found[1]) == 16


def test_two_sets_of_other_form_or_classes_are_refused(refusal):
    names = np.array(["a", "b"])
    grey, colour = (np.zeros((2, 8, 8, c), np.float32) for c in (1, 3))
    one = data.Data(grey, np.array([0, 1]), names)

    data.check_alike("a.npz", one, "b.npz", one)
    for other in (one._replace(images=colour), one._replace(classes=names[::-1])):
        message = refusal(data.check_alike, "a.npz", one, "b.npz", other)
        assert message.startswith("b.npz: ")
        assert message.endswith("run 'dvc repro'")
