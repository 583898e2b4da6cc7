"""An npz is written so that its arrays can be mapped, and is read without holding them."""

import errno
import hashlib
import mmap
import os
import zipfile

import numpy as np
import pytest

from cnn.base import npz
from cnn.base.npz import ChunkedArray, extremes, in_chunks, read_arrays, to_temp_file, write_arrays


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Arrays of every kind that the pipeline writes; the names make each header another length."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.random((3, 5, 7, 1), np.float32),
        "labels": np.array([0, 2, 1]),
        "a long name": rng.integers(0, 99, (4, 3), dtype=np.uint8),
        "classes": np.array(["ant", "bee", "Käfer"]),
        "none": np.zeros((0, 3)),
        "number": np.array(2.5),
        "Käfer": np.array([7.25, 8.5]),
    }


def base(array: np.ndarray) -> object:
    while isinstance(array, np.ndarray):
        array = array.base
    return array


def test_numpy_reads_what_is_written_and_each_array_is_aligned(tmp_path, arrays):
    write_arrays(tmp_path / "a.npz", **arrays)

    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found.files == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
    content = (tmp_path / "a.npz").read_bytes()
    for name in set(arrays) - {"none"}:
        found = arrays[name].tobytes()
        assert content.count(found) == 1
        assert content.index(found) % 64 == 0


def test_an_array_in_chunks_gives_the_bytes_of_the_whole(tmp_path, arrays, monkeypatch):
    images = arrays["images"]
    write_arrays(tmp_path / "whole.npz", images=images)
    monkeypatch.setattr(npz, "CHUNK", images[:2].nbytes)  # two images at a time, then one

    assert [len(chunk) for chunk in in_chunks(images)] == [2, 1]
    chunked = ChunkedArray(images.shape, images.dtype, in_chunks(images))
    write_arrays(tmp_path / "chunked.npz", images=chunked)

    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "chunked.npz").read_bytes()


def test_every_python_and_zlib_write_the_bytes_that_are_recorded(tmp_path, monkeypatch):
    """By zipfile of Python 3.11.7, as in dvc.lock when the zip came to be written here."""
    monkeypatch.setattr("zlib.compressobj", None)
    arrays = {
        "images": np.arange(105, dtype="<f4").reshape(3, 5, 7, 1),
        "labels": np.array([0, 2, 1], "<i8"),
        "classes": np.array(["ant", "bee", "Käfer"]).astype("<U5"),
    }
    write_arrays(tmp_path / "a.npz", **arrays)

    found = hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest()
    assert found == "ffdf634df7c6b3d1342fe3327ff0a21b71fd438b5d4aa5ba613df8117c217334"


@pytest.mark.parametrize("large", [0, 500])
def test_files_of_more_than_4_gb_are_read_back(tmp_path, arrays, monkeypatch, large):
    """They need not be that large: here all sizes and offsets are called large, or some."""
    monkeypatch.setattr(npz, "LARGE", large)

    write_arrays(tmp_path / "a.npz", **arrays)

    content = (tmp_path / "a.npz").read_bytes()
    assert content.count(b"PK\6\6") == content.count(b"PK\6\7") == 1
    assert content.count(b"\xff" * 8) > len(arrays)  # not only those of the headers before
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
    for name, array in zip(arrays, read_arrays(tmp_path / "a.npz", tuple(arrays)), strict=True):
        np.testing.assert_array_equal(array, arrays[name])
        assert not array.size or array.ctypes.data % npz.ALIGNMENT == 0


@pytest.mark.parametrize("write", [write_arrays, np.savez, np.savez_compressed])
def test_what_is_read_is_mapped_and_as_it_was_written(tmp_path, arrays, write):
    """np.savez does not align; nobody but TensorFlow minds."""
    arrays["by column"] = np.asfortranarray(arrays["a long name"])
    scratch = tmp_path / "scratch" / "below"
    write(tmp_path / "a.npz", **arrays)

    found = read_arrays(tmp_path / "a.npz", tuple(arrays), scratch)

    for array, (name, expected) in zip(found, arrays.items(), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
        assert not array.flags.writeable
        assert isinstance(base(array), mmap.mmap), name
    if write is np.savez_compressed:
        assert os.listdir(scratch) == []  # the file has no name any more
    else:
        assert not scratch.exists()


def test_what_is_mapped_stays_when_its_file_is_replaced(tmp_path):
    path = tmp_path / "a.npz"
    write_arrays(path, images=np.arange(5000))
    (before,) = read_arrays(path, ("images",))

    write_arrays(path, images=np.zeros(5000, int))
    path.unlink()

    np.testing.assert_array_equal(before, np.arange(5000))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }",  # more than there is
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",  # less
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3, 1), }",
        "no header",
    ],
)
def test_a_header_that_does_not_fit_what_follows_is_refused(tmp_path, refusal, header):
    path = tmp_path / "a.npz"
    head = header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        content = np.ones((3, 3), np.float32).tobytes()
        archive.writestr(
            "images.npy", b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head + content
        )

    assert refusal(read_arrays, path, ("images",)).startswith(f"{path}: is damaged or no npz (")


def test_a_copy_for_which_there_is_no_room_is_one_line(tmp_path, refusal, monkeypatch):
    def chunks():
        yield np.zeros(3)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = refusal(to_temp_file, ChunkedArray((6,), np.dtype(float), chunks()), tmp_path)

    assert message.startswith(
        f"{tmp_path}: a temporary copy of the images cannot be written: No space left on device; "
    )
    assert os.listdir(tmp_path) == []


def test_the_extremes_are_those_of_all_chunks_and_of_nan(monkeypatch):
    monkeypatch.setattr(npz, "CHUNK", 16)
    values = np.array([[3.0, 4.0], [-2.0, 9.0], [5.0, 6.0]])

    assert extremes(values) == (-2, 9)
    values[1, 1] = np.nan
    assert np.isnan(extremes(values)).all()
