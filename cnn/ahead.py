"""Have the images of the next steps read from the disk while the steps before them are computed.

Images that are mapped need not fit into memory. An epoch takes them in a random order, which no
kernel foresees: it reads megabytes around every image, for nothing, and each step waits for it.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

import numpy as np
from numpy.typing import NDArray


def ask(images: NDArray, places: NDArray[np.int64]) -> None:
    """Ask the kernel for some of the images, (n, ...), mapped, that are about to be taken."""
    first, size = images.ctypes.data, images[:1].nbytes
    advise(first, images.nbytes, mmap.MADV_RANDOM)
    for address in (first + places * size).tolist():
        advise(address, size, mmap.MADV_WILLNEED)


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
