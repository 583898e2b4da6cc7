"""The images of the next steps are read from the disk before a step asks for them."""

import mmap
import os
import time

import numpy as np
import pytest

from cnn.base.params import load as load_params
from cnn.data.sets import Data
from cnn.kernels import Kernels, load
from cnn.training import engine, prefetch
from stages.train import TrainParams

IMAGES = 256


@pytest.fixture(autouse=True)
def proved():
    """The kernels have proved themselves before a test changes what they do."""
    load()


@pytest.fixture
def images(tmp_path):
    """Images, a page each, mapped from a file of which nothing is in memory.

    Where the file system keeps its files in memory, all of them are.
    """
    pixels = np.arange(IMAGES * mmap.PAGESIZE // 4, dtype=np.float32).reshape(IMAGES, -1)
    with open(tmp_path / "images", "w+b") as file:
        file.write(pixels.tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(pixels.shape, pixels.dtype, memory)


def test_what_is_requested_is_read_and_no_neighbour(images):
    before = prefetch.resident(images)
    order = np.random.default_rng(0).permutation(IMAGES)

    prefetch.read_ahead(images, order[:20])

    until = time.monotonic() + 60
    while not prefetch.resident(images)[order[:20]].all():
        assert time.monotonic() < until
        time.sleep(0.005)
    before[order[:20]] = True
    np.testing.assert_array_equal(prefetch.resident(images), before)
    assert images[order[200], 0] == order[200] * mmap.PAGESIZE / 4  # is read when it is taken
    before[order[200]] = True
    np.testing.assert_array_equal(prefetch.resident(images), before)


@pytest.mark.parametrize("size", [100, mmap.PAGESIZE, 3 * mmap.PAGESIZE + 8])
def test_every_byte_of_what_is_requested_lies_in_a_page_that_is_requested(monkeypatch, size):
    """Whatever the size of an image, and wherever in its page the first one begins."""
    memory = np.zeros(50 * size + 64, np.uint8)
    images = memory[24 : 24 + 50 * size].reshape(50, size)
    places, requested = np.array([0, 7, 49]), set()

    class Libc:
        def madvise(self, address, length, advice):
            assert address % mmap.PAGESIZE == 0
            if advice == mmap.MADV_WILLNEED:
                requested.update(range(address, address + length))

    monkeypatch.setattr(prefetch, "_libc", Libc)
    prefetch.read_ahead(images, places)

    first = images.ctypes.data
    wanted = {first + place * size + byte for place in places.tolist() for byte in range(size)}
    assert wanted <= requested
    assert len(requested - wanted) < len(places) * mmap.PAGESIZE


def test_memory_that_is_in_use_is_resident():
    assert prefetch.resident(np.ones((10, 1000), np.float32)).all()


@pytest.mark.parametrize("chunk", [0, 1e9], ids=["step by step", "many steps at once"])
def test_a_training_from_the_disk_requests_each_image_once_before_it_needs_it(
    tiny_yaml, digits, monkeypatch, chunk
):
    whole = load_params(tiny_yaml, "train", TrainParams)
    params = whole.model_copy(update={"epochs": 2, "batch_size": 3})
    data = Data(*digits, np.array([*"0123456789"]))
    requested, taken, train = [], [], Kernels.train

    def taking(self, *given, **more):
        taken.extend(given[5])
        assert requested[: len(taken)] == taken
        # What comes next is read meanwhile.
        assert len(requested) % 40 == 0 or len(requested) >= len(taken) + 2 * len(given[5])
        return train(self, *given, **more)

    monkeypatch.setattr(engine, "CHUNK", chunk)
    monkeypatch.setattr(prefetch, "resident", lambda images: np.array([True, False]))
    monkeypatch.setattr(prefetch, "read_ahead", lambda images, places: requested.extend(places))
    monkeypatch.setattr(Kernels, "train", taking)

    engine.train(params, params.network((14, 14, 1), 10), data, data)

    assert requested == taken
    assert sorted(taken) == sorted([*range(40)] * 2)


def test_where_all_is_in_memory_nothing_is_requested(tiny_yaml, digits, monkeypatch):
    params = load_params(tiny_yaml, "train", TrainParams)
    data = Data(*digits, np.array([*"0123456789"]))
    monkeypatch.setattr(prefetch, "read_ahead", None)

    engine.train(params, params.network((14, 14, 1), 10), data, data)
