"""The images of the next steps are read from the disk before a step asks for them."""

import mmap
import os
import time

import numpy as np
import pytest

from cnn import ahead, engine

IMAGES = 256


@pytest.fixture
def images(tmp_path, tf):
    """A tensor of images, a page each, mapped from a file of which nothing is in memory."""
    pixels = np.arange(IMAGES * mmap.PAGESIZE // 4, dtype=np.float32).reshape(IMAGES, -1)
    with open(tmp_path / "images", "w+b") as file:
        file.write(pixels.tobytes())
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.ndarray(pixels.shape, pixels.dtype, memory)
    if ahead.resident(array).any():
        pytest.skip("this file system keeps its files in memory")
    return engine.in_tensorflow(array)


def test_the_images_of_the_next_steps_are_read_and_no_others(images, monkeypatch):
    array, taken = np.from_dlpack(images), 0
    order = np.random.default_rng(0).permutation(IMAGES)
    monkeypatch.setattr(ahead, "AHEAD", 0)  # two steps, the least

    def wait_for(wanted) -> None:
        until = time.monotonic() + 10
        while not all(ahead.resident(array[index]).all() for index in wanted):
            assert time.monotonic() < until
            time.sleep(0.005)

    with ahead.reading(images, order, 10, lambda: 7 + taken):
        wait_for(order[:20])
        assert ahead.resident(array).sum() == 20
        taken = 3
        wait_for(order[30:50])

        found = ahead.resident(array)
        assert float(images[order[200], 0]) == order[200] * mmap.PAGESIZE / 4
        found[order[200]] = True  # and none of its neighbours
        np.testing.assert_array_equal(ahead.resident(array), found)


def test_where_all_is_in_memory_nothing_is_asked(monkeypatch):
    array = np.ones((10, 3), np.float32)
    monkeypatch.setattr(ahead, "advise", None)

    with ahead.reading(array, np.arange(10), 2, None):
        pass


def test_an_error_in_the_block_ends_the_reader(images):
    with pytest.raises(KeyError), ahead.reading(images, np.arange(IMAGES), 1, lambda: 0):
        raise KeyError
