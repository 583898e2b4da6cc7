"""Have the images of the next steps read from the disk while the steps before them are computed.

Images that are mapped need not fit into memory. An epoch takes them in a random order, which no
kernel foresees: it reads megabytes around every image, for nothing, and each step waits for it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from cnn.runtime import tf

AHEAD = 2**25  # bytes that are asked for before they are needed
LOOK = 0.02  # seconds between two looks at how far the training is


@contextmanager
def reading(
    images: tf.Tensor, order: NDArray[np.int64], batch_size: int, steps: Callable[[], int]
) -> Iterator[None]:
    """Ask the kernel, while the block runs, for the images that are about to be trained on.

    Where all are in memory, as those of a small set are, nothing happens.

    Parameters
    ----------
    images : (n, ...), in main memory.
    order : in which they are taken.
    steps : gives the number of steps taken so far; each takes `batch_size` images.
    """
    array = np.from_dlpack(images)
    if resident(array).all():
        yield
        return
    first, size = array.ctypes.data, array[:1].nbytes
    advise(first, array.nbytes, mmap.MADV_RANDOM)
    before, over = steps(), Event()
    far = max(2 * batch_size, AHEAD // size)

    def ask() -> None:
        asked = 0
        while asked < len(order):
            taken = (steps() - before) * batch_size
            wanted = min(taken + far, len(order))
            for address in (first + order[max(asked, taken) : wanted] * size).tolist():
                advise(address, size, mmap.MADV_WILLNEED)
            asked = wanted
            if over.wait(LOOK):
                return

    reader = Thread(target=ask, daemon=True)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()


def advise(address: int, size: int, advice: int) -> None:
    """Tell the kernel how some bytes of memory will be used; it may pass over it."""
    before = address % mmap.PAGESIZE  # it takes whole pages
    _libc().madvise(address - before, size + before, advice)


def resident(array: NDArray) -> NDArray[np.bool_]:
    """Return for each page of an array's memory whether it is in main memory."""
    before = array.ctypes.data % mmap.PAGESIZE
    found = np.ones(-(-(array.nbytes + before) // mmap.PAGESIZE), np.uint8)
    _libc().mincore(array.ctypes.data - before, array.nbytes + before, found.ctypes.data)
    return (found & 1).astype(bool)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mincore.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
    return libc
