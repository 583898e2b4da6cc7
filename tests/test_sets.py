"""A set of labelled images is read only when it is whole and as its docstring says."""

import hashlib
import zipfile

import numpy as np
import pytest

from cnn.base.files import REPAIR
from cnn.base.npz import read_arrays, write_arrays
from cnn.data import sets
from cnn.data.sets import load

SHAPE = (28, 28, 1)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Three valid images with labels and classes."""
    return {
        "images": np.linspace(0, 1, 3 * 28 * 28, dtype=np.float32).reshape(3, *SHAPE),
        "labels": np.array([0, 2, 1]),
        "classes": np.array(["ant", "bee", "Käfer"]),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.npz"


@pytest.mark.parametrize("write", [write_arrays, np.savez_compressed])
def test_what_is_written_is_read_back(path, arrays, write):
    write(path, **arrays)

    found = load(path)

    for name in sets.Data._fields:
        np.testing.assert_array_equal(getattr(found, name), arrays[name])
    assert (found.images.dtype, found.labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("shape", [(8, 256, 3), (8, 8, 1), (32, 32, 3)])
def test_images_of_any_shape_are_saved_and_loaded(path, shape):
    images = np.random.default_rng(0).random((4, *shape), np.float32)
    names = np.array([f"class {number}" for number in range(100)])

    sets.save(path, sets.Data(images, np.array([0, 99, 50, 7]), names))

    np.testing.assert_array_equal(load(path).images, images)
    assert load(path).classes.tolist() == names.tolist()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"images": np.zeros((3, *SHAPE))}, "images are float64 (3, 28, 28, 1)"),
        ({"images": np.zeros((3, 28, 28), np.float32)}, "images are float32 (3, 28, 28)"),
        ({"images": np.zeros((0, *SHAPE), np.float32)}, "images are float32 (0, 28, 28, 1)"),
        ({"images": np.float32(1)}, "images are float32 ()"),
        ({"images": np.zeros((3, 7, 28, 1), np.float32)}, "images are 7 x 28 pixels"),
        ({"images": np.zeros((3, 28, 257, 1), np.float32)}, "images are 28 x 257 pixels"),
        ({"images": np.zeros((3, 28, 28, 2), np.float32)}, "images have 2 channels"),
        ({"images": np.full((3, *SHAPE), 2, np.float32)}, "pixels lie in [2.0, 2.0]"),
        ({"images": np.full((3, *SHAPE), -1, np.float32)}, "pixels lie in [-1.0, -1.0]"),
        ({"images": np.full((3, *SHAPE), np.nan, np.float32)}, "pixels lie in [nan, nan]"),
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
def test_arrays_of_another_form_are_refused(path, arrays, refusal, broken, reason):
    write_arrays(path, **(arrays | broken))

    assert refusal(load, path).startswith(f"{path}: {reason}")


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
    found = sets.problem_of_classes(names)

    assert problem in found
    assert len(found) < 200


@pytest.mark.parametrize(
    "names", [["0", "1"], ["T-shirt/top", "Ankle boot"], ["ß", "日本", "a" * 60], ["$1", "*x*"]]
)
def test_other_names_of_classes_pass(names):
    assert sets.problem_of_classes(names) == ""


def test_a_missing_file_and_a_missing_array_are_named(path, arrays, refusal):
    assert refusal(load, path) == f"{path}: is missing; run 'dvc repro'"

    write_arrays(path, pictures=arrays["images"], labels=arrays["labels"])
    message = refusal(load, path)

    assert message.startswith(f"{path}: has no array 'images'; found ['labels', 'pictures']; ")


def saved(path, write, arrays, place=None, bit=1) -> None:
    """Write a file, in which a bit is flipped: `place` counts from the zip's directory if < 0."""
    write(path, **arrays)
    content = bytearray(path.read_bytes())
    if place is not None:
        content[place if place > 0 else content.rindex(b"PK\1\2") - place] ^= bit
    path.write_bytes(content)


def single_array(path, arrays) -> None:
    with open(path, "wb") as stream:
        np.save(stream, arrays["images"])


def texts(path, arrays) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in arrays:
            archive.writestr(name, b"text")


DAMAGES = {
    "a text": lambda path, arrays: path.write_bytes(b"images,labels\n1,2\n"),
    "a single array": single_array,
    "members that are no arrays": texts,
    "pickled objects": lambda path, arrays: np.savez(
        path, **(arrays | {"images": np.array([print], dtype=object)})
    ),
    "truncated": lambda path, arrays: (
        saved(path, write_arrays, arrays) or path.write_bytes(path.read_bytes()[:-100])
    ),
    # A pixel that is still a number; what is compressed.
    "a bit of a pixel": lambda path, arrays: saved(path, write_arrays, arrays, 5000),
    "a compressed bit": lambda path, arrays: saved(path, np.savez_compressed, arrays, 300),
    # Of the zip's directory.
    "the version": lambda path, arrays: saved(path, write_arrays, arrays, -6, 128),
    "the flag of a key": lambda path, arrays: saved(path, write_arrays, arrays, -8, 1),
    "the flag of keys": lambda path, arrays: saved(path, write_arrays, arrays, -8, 64),
    "the method": lambda path, arrays: saved(path, write_arrays, arrays, -10, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_no_npz_is_refused(path, arrays, refusal, damage):
    DAMAGES[damage](path, arrays)

    message = refusal(load, path)

    assert message.startswith(f"{path}: is damaged or no npz (")
    assert message.endswith(REPAIR)


def test_an_array_that_is_not_asked_for_is_not_read(path, arrays):
    saved(path, write_arrays, arrays, 5000)

    (labels,) = read_arrays(path, ("labels",))

    np.testing.assert_array_equal(labels, arrays["labels"])


def test_a_fingerprint_is_blake2b_of_the_pixels():
    images = np.random.default_rng(0).random((3, *SHAPE), np.float32)

    found = sets.fingerprints(images[[0, 1, 0]])

    assert found == [
        hashlib.blake2b(images[n].tobytes(), digest_size=8).hexdigest() for n in (0, 1, 0)
    ]


def test_two_sets_of_other_shapes_or_classes_are_refused(refusal):
    names = np.array(["a", "b"])
    grey, colour = (np.zeros((2, 8, 8, c), np.float32) for c in (1, 3))
    one = sets.Data(grey, np.array([0, 1]), names)

    sets.check_alike("a.npz", one, "b.npz", one)
    for other in (one._replace(images=colour), one._replace(classes=names[::-1])):
        message = refusal(sets.check_alike, "a.npz", one, "b.npz", other)
        assert message.startswith("b.npz: ")
        assert message.endswith("run 'dvc repro'")
