"""Write npz files whose arrays can be mapped, and read npz files without holding their arrays.

An array that is stored as it is, and not compressed, is mapped into memory: the kernel brings the
pages that are touched and drops them again, so a file may be many times larger than the memory.
"""

import io
import math
import mmap
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from cnn.base.errors import UserError, brief, reason
from cnn.base.files import REPAIR, atomic_write

ALIGNMENT = 64  # bytes, what TensorFlow wants of memory that it is to use as it is
CHUNK = 2**23  # bytes; larger ones are no faster
# Marks extra data of a zip's entry that only fill up; Android's zipalign writes the same.
FILLER = 0xD935
LARGE = 2**31 - 1  # a size or an offset above stands in the extra data; zipfile's bound
ELSEWHERE = 2**32 - 1  # says so in the place of the size
ZIP_VERSION = 45  # that has sizes in the extra data
ZIP_ERRORS = (  # what Python's zipfile and numpy raise on a damaged file
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


class ChunkedArray(NamedTuple):
    """An array that is never held in memory as a whole, but in chunks along its first axis.

    shape : of the whole, (n, ...).
    dtype : of each chunk.
    chunks : arrays (m, ...), in their order; they can be iterated over once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: Iterable[np.ndarray]


def chunk_slices(n: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices that cover range(n), each of about CHUNK bytes."""
    size = max(1, CHUNK // max(1, row_bytes))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def in_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of an array, (n, ...), in chunks of about CHUNK bytes.

    Of a mapped array only a chunk is then in this process' memory at a time.
    """
    array = np.atleast_1d(array)
    for rows in chunk_slices(len(array), array[:1].nbytes):
        yield array[rows]
        release(array)


def release(array: np.ndarray) -> None:
    """Give the pages of a mapped array back to the kernel, which brings them again when needed."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def extremes(array: np.ndarray) -> tuple[np.generic, np.generic]:
    """Return the least and the greatest value, NaN where one is, of an array that is not empty."""
    found = [(chunk.min(), chunk.max()) for chunk in in_chunks(array)]
    return np.min(found), np.max(found)


def read_arrays(
    path: str | Path, names: tuple[str, ...], scratch: Path | None = None, remedy: str = REPAIR
) -> list[np.ndarray]:
    """Return the named arrays of an npz, read-only, whole by its own checksums (zip CRC-32).

    What is stored is mapped; what is compressed is unpacked into a file without a name, and that is
    mapped. So neither takes memory of the process' own.

    Parameters
    ----------
    scratch : the folder with room for what is unpacked; None for the system's.
    remedy : what the user can do if the file is damaged.

    Raises
    ------
    UserError
        The file is missing, damaged, no npz, or lacks one of `names`.
    """
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("no zip file")
            with zipfile.ZipFile(file) as archive:
                found = [entry.removesuffix(".npy") for entry in archive.namelist()]
                missing = [name for name in names if name not in found]
                if missing:
                    raise UserError(
                        f"{path}: has no array '{missing[0]}'; found {sorted(found)}; "
                        "if it is not your own, run 'dvc repro --force'"
                    )
                return [_array(file, archive, f"{name}.npy", scratch) for name in names]
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; run 'dvc repro'") from None
    except MemoryError as error:
        raise UserError(f"{path}: {error}; free memory or, if it is damaged, {remedy}") from None
    except ZIP_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{path}: cannot be read: {reason(error)}") from None
        cause = brief(" ".join(str(error).split()), 200)[1:-1]
        raise UserError(f"{path}: is damaged or no npz ({cause}); {remedy}") from None


def _array(
    file: IO[bytes], archive: zipfile.ZipFile, name: str, scratch: Path | None
) -> np.ndarray:
    entry = archive.getinfo(name)
    with archive.open(entry) as member:  # reading to the end checks the CRC
        chunks = iter(lambda: member.read(CHUNK), b"")
        if entry.compress_type == zipfile.ZIP_STORED:
            for _ in chunks:
                pass
            file.seek(entry.header_offset + 26)  # the lengths of the name and of the extra data
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            memory, start = _spool(chunks, scratch), 0
    memory.seek(start)
    version = np.lib.format.read_magic(memory)
    if version == (1, 0):
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(memory)
    else:
        shape, by_column, dtype = np.lib.format.read_array_header_2_0(memory)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or memory.tell() + size != start + entry.file_size:
        raise ValueError(f"{name} holds {dtype} {shape} in {entry.file_size} bytes")
    return np.ndarray(shape, dtype, memory, memory.tell(), order="F" if by_column else "C")


def to_temp_file(array: ChunkedArray, scratch: Path | None) -> np.ndarray:
    """Return the whole of an array, read-only, mapped from a file that goes when the array does.

    Parameters
    ----------
    scratch : the folder with room for it; None for the system's.

    Raises
    ------
    UserError
        The system refuses to write it.
    """
    memory = _spool((chunk.tobytes() for chunk in array.chunks), scratch)
    return np.ndarray(array.shape, array.dtype, memory)


def _spool(chunks: Iterable[bytes], scratch: Path | None) -> mmap.mmap:
    try:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:  # has no name, so it outlives no process
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(
            f"{scratch or tempfile.gettempdir()}: a temporary copy of the images cannot be "
            f"written: {reason(error)}"
        ) from None


def write_arrays(path: str | Path, **arrays: np.ndarray | ChunkedArray) -> None:
    """Write an npz, whole or not at all: same arrays, same bytes.

    Entries are stamped 1980. Not compressed, since what zlib makes of an array depends on which
    zlib Python was built with, and so that each can be mapped: it begins at a multiple of
    ALIGNMENT. Nor is it written by zipfile, whose headers depend on Python: 3.11.2's of an entry
    whose size was not given before differ from 3.11.7's. What is laid out here are the bytes of
    3.11.7, as PKWARE's APPNOTE.TXT describes them.
    """
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        entries = [_write_entry(stream, f"{name}.npy", array) for name, array in arrays.items()]
        start, n, size = stream.tell(), len(entries), sum(map(len, entries))
        stream.writelines(entries)
        if start > LARGE:
            versions = ZIP_VERSION, ZIP_VERSION
            stream.write(
                struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, *versions, 0, 0, n, n, size, start)
            )
            stream.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1))
        stream.write(
            struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, n, n, size, min(start, ELSEWHERE), 0)
        )


def _write_entry(stream: IO[bytes], name: str, array: np.ndarray | ChunkedArray) -> bytes:
    """Write an array as a zip's next entry; return what the zip's directory says of it."""
    filename, start = name.encode(), stream.tell()
    # Before the content come 30 bytes, the name, the filler after its head of 4, and the sizes, 20;
    # numpy's own header is a multiple of 64.
    fill = -(start + 30 + len(filename) + 4 + 20) % ALIGNMENT
    filler = struct.pack("<HH", FILLER, fill) + bytes(fill)
    begin = stream.seek(start + 30 + len(filename) + len(filler) + 20)
    crc = 0
    for chunk in _npy(array):
        crc = zlib.crc32(chunk, crc)
        stream.write(chunk)
        del chunk  # before the next one is made: they are large
    end = stream.tell()
    size = end - begin

    # Stored, of 1980-01-01, the name in UTF-8 where it is not ASCII.
    common = struct.pack("<5HL", ZIP_VERSION, 0 if name.isascii() else 0x800, 0, 0, 33, crc)
    stream.seek(start)
    stream.write(b"PK\3\4" + common)
    stream.write(struct.pack("<LLHH", ELSEWHERE, ELSEWHERE, len(filename), len(filler) + 20))
    stream.write(filename + filler + struct.pack("<HHQQ", 1, 16, size, size))
    stream.seek(end)

    large = [size, size] * (size > LARGE) + [start] * (start > LARGE)
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    extra += filler
    size, start = (ELSEWHERE if value > LARGE else value for value in (size, start))
    lengths = len(filename), len(extra), 0
    rights = 0o600 << 16  # of the file once unpacked, as Unix (3) has them
    return (
        struct.pack("<4sBB", b"PK\1\2", ZIP_VERSION, 3)
        + common
        + struct.pack("<LLHHHHHLL", size, size, *lengths, 0, 0, rights, start)
        + filename
        + extra
    )


def _npy(array: np.ndarray | ChunkedArray) -> Iterator[bytes]:
    """Yield the content of an npy file, in chunks."""
    if not isinstance(array, ChunkedArray):
        array = np.asarray(array)
        array = ChunkedArray(array.shape, array.dtype, in_chunks(array))
    head = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(array.dtype)),
        "fortran_order": False,
        "shape": array.shape,
    }
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, head)
    yield stream.getvalue()
    for chunk in array.chunks:
        yield chunk.tobytes()
