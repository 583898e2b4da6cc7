"""Have the images of the next steps read from the disk while earlier steps are computed.

Mapped images need not fit into memory. An epoch visits them in a random order, which the system
does not foresee: it would read megabytes around every image, and each step would wait for that.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

import numpy as np
from numpy.typing import NDArray


def read_ahead(images: NDArray, places: NDArray[np.int64]) -> None:
    """Ask the system to read some of the images, (n, ...), mapped, that are needed soon."""
    first, size = images.ctypes.data, images[:1].nbytes
    _advise(first, images.nbytes, mmap.MADV_RANDOM)
    for address in (first + places * size).tolist():
        _advise(address, size, mmap.MADV_WILLNEED)


def _advise(address: int, size: int, advice: int) -> None:
    before = address % mmap.PAGESIZE  # the system takes whole pages
    _libc().madvise(address - before, size + before, advice)


def resident(array: NDArray) -> NDArray[np.bool_]:
    """Return for each page of an array's memory whether it is in main memory (mincore(2))."""
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
