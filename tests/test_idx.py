"""IDX files are read under all names that they are published with."""

import gzip
import hashlib

import numpy as np
import pytest

from cnn.data.idx import DTYPES
from cnn.data.raw import Options
from cnn.data.readers import read
from cnn.published.datasets import PUBLISHED

IMAGES = np.random.default_rng(0).integers(0, 120, (18, 9, 10), dtype=np.uint8)
LABELS = (np.arange(18) % 3).astype(np.uint8)
ARRAYS = {
    ("train", "images"): IMAGES[:12],
    ("train", "labels"): LABELS[:12],
    ("test", "images"): IMAGES[12:],
    ("test", "labels"): LABELS[12:],
}


def idx(array) -> bytes:
    """The format as Yann LeCun's page has it: two zeros, type, dimensions, sizes, content."""
    code = {"uint8": 8, "int32": 12}[array.dtype.name]
    head = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(DTYPES[code]).tobytes()


@pytest.fixture
def write(tmp_path):
    """Write the files under names of a pattern; return their folder."""

    def call(pattern="{split}-{kind}-idx{dimensions}-ubyte", test="t10k", packed=False, **changed):
        for (split, kind), array in (ARRAYS | changed.get("arrays", {})).items():
            content = idx(array)
            name = pattern.format(
                split="train" if split == "train" else test, kind=kind, dimensions=array.ndim
            )
            (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
        return tmp_path

    return call


@pytest.mark.parametrize(
    ("pattern", "test", "packed"),
    [
        ("{split}-{kind}-idx{dimensions}-ubyte", "t10k", False),
        ("{split}-{kind}-idx{dimensions}-ubyte.gz", "t10k", True),
        ("{split}-{kind}-idx{dimensions}-ubyte.gz", "t10k", False),  # a browser unpacked it
        ("{split}-{kind}-idx{dimensions}-ubyte", "t10k", True),
        ("{split}-{kind}.idx{dimensions}-ubyte", "t10k", False),
        ("{split}_{kind}.idx{dimensions}.ubyte", "test", False),
        ("qmnist-{split}-{kind}-idx{dimensions}-ubyte.gz", "test", True),
        ("Kannada-{split}-{kind}-idx{dimensions}-ubyte", "t10k", False),
    ],
)
def test_each_name_is_read_packed_or_not(write, pattern, test, packed):
    raw = read(write(pattern, test, packed))

    for split, each in raw.splits.items():
        np.testing.assert_array_equal(each.images[..., 0], ARRAYS[split, "images"])
        np.testing.assert_array_equal(each.labels, ARRAYS[split, "labels"])
    assert (list(raw.splits), raw.classes, raw.notes) == (["train", "test"], ["0", "1", "2"], [])


def test_emnists_letters_count_from_1_have_names_and_lie_transposed(write, tmp_path):
    labels = {key: array + 1 for key, array in ARRAYS.items() if key[1] == "labels"}
    write("emnist-letters-{split}-{kind}-idx{dimensions}-ubyte", "test", arrays=labels)
    mapping = "".join(f"{n} {64 + n} {96 + n}\n" for n in range(1, 27))
    (tmp_path / "emnist-letters-mapping.txt").write_text(mapping)

    turned = read(tmp_path, Options(transpose=True))

    assert turned.classes == ["A", "B", "C"]
    np.testing.assert_array_equal(turned.splits["test"].images[..., 0], IMAGES[12:].swapaxes(1, 2))
    np.testing.assert_array_equal(turned.splits["test"].labels, LABELS[12:])
    assert turned.notes == []


def test_emnist_is_a_note_until_it_is_turned(write, tmp_path):
    """Small letters of which there are capitals too are called so, for file systems' sake."""
    labels = {
        ("train", "images"): np.repeat(IMAGES, 2, 0)[:30],
        ("train", "labels"): np.arange(30, dtype=np.uint8) % 26,
        ("test", "images"): np.repeat(IMAGES, 2, 0)[:26],
        ("test", "labels"): np.arange(26, dtype=np.uint8),
    }
    write("emnist-balanced-{split}-{kind}-idx{dimensions}-ubyte", "test", arrays=labels)
    codes = [*range(65, 88), 97, 98, 104]
    mapping = "".join(f"{n} {code}\n" for n, code in enumerate(codes))
    (tmp_path / "emnist-balanced-mapping.txt").write_text(mapping)

    raw = read(tmp_path)

    assert raw.classes[:3] == ["A", "B", "C"]
    assert raw.classes[-3:] == ["small a", "small b", "small h"]
    assert raw.notes[-1].endswith("prepare.transpose: true turns them")


def test_qmnists_labels_name_the_writer(write):
    tables = {}
    for split in ("train", "test"):
        labels = ARRAYS[split, "labels"].astype(np.int32)
        columns = [labels, labels * 0, np.arange(len(labels)) // 2, *[labels * 0] * 5]
        tables[split, "labels"] = np.stack(columns, 1).astype(np.int32)

    raw = read(write("qmnist-{split}-{kind}-idx{dimensions}-int.gz", "test", True, arrays=tables))

    np.testing.assert_array_equal(raw.splits["train"].labels, LABELS[:12])
    assert raw.splits["train"].groups.tolist() == [str(n // 2) for n in range(12)]


def test_a_published_set_has_its_names_whoever_gives_it(write, monkeypatch):
    digests = tuple(hashlib.sha256(idx(array)).hexdigest() for array in ARRAYS.values())
    mine = PUBLISHED["fashion_mnist"]._replace(
        sha256=digests, classes=("T-shirt", "Trouser", "Bag")
    )
    monkeypatch.setitem(PUBLISHED, "fashion_mnist", mine)

    raw = read(write())

    assert (raw.published, raw.classes) == (mine, ["T-shirt", "Trouser", "Bag"])


def both_sets(folder):
    for file in list(folder.iterdir()):
        (folder / f"emnist-digits-{file.name}").write_bytes(file.read_bytes())
    return "has IDX files of 2 data sets, , emnist-digits"


def no_labels(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    return "has t10k-images-idx3-ubyte but not the labels for it"


def short(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    return "train-images-idx3-ubyte: is cut short: its head says (12, 9, 10)"


def long(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes() + b"1")
    return "is longer than its head says"


def another_kind(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(b"<html>")
    return "train-images-idx3-ubyte: begins with '3c68746d', is no IDX file"


def cut_gzip(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(gzip.compress(file.read_bytes())[:-20])
    return "train-images-idx3-ubyte: is damaged: "


def twice(folder):
    (folder / "train_images-idx3-ubyte").write_bytes(b"x")
    return "has train-images-idx3-ubyte and train_images-idx3-ubyte; keep one of them"


def only_a_test(folder):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (folder / name).unlink()
    return "has no IDX files of training"


def other_numbers(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:11]))
    return "train-images-idx3-ubyte has 12 images, train-labels-idx1-ubyte 11 labels"


@pytest.mark.parametrize(
    "spoil",
    [both_sets, no_labels, short, long, another_kind, cut_gzip, twice, only_a_test, other_numbers],
    ids=lambda spoil: spoil.__name__,
)
def test_what_cannot_be_used_is_one_line(write, refusal, spoil):
    folder = write()
    reason = spoil(folder)

    message = refusal(read, folder)

    assert message.startswith(str(folder))
    assert reason in message


def test_what_else_is_there_is_a_note(write):
    folder = write()
    (folder / "readme.txt").write_text("mine")

    assert read(folder).notes == ["1 left out, no IDX files: readme.txt"]
