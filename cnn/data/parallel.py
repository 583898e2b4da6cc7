"""Decode many pictures in their order, by a process per core where they are many.

Of small pictures most of the work is Python's, which no two threads do at once. What goes between
processes is cheap to pack: file names as text, and the pixels of a chunk in one piece.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from math import prod
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.program import cores
from cnn.data.beside import beside
from cnn.data.pictures import read_picture

Source = tuple[str, Path | bytes]  # what a picture is called, and its file or the bytes of one
Form = tuple[tuple[int, int] | None, int | None, str]  # sides, channels, fit
Found = NDArray[np.uint8] | UserError

CHUNK = 32  # pictures that are decoded one after the other
CHUNK_BYTES = 2**20  # of pictures that come as bytes, about
ALONE = 1024  # pictures that are decoded before it is worth it to start processes
MAX_WORKERS = 4  # each takes 60 MB
AHEAD = 2  # chunks per worker: one that it decodes, and one for which it need not wait


def read_pictures(
    sources: Iterable[Source],
    sides: tuple[int, int] | None,
    channels: int | None,
    fit: str = "pad",
    workers: int | None = None,
) -> Iterator[tuple[str, Found]]:
    """Yield for each (name, source) the name and what `read_picture` returns or raises, in order.

    After the first ALONE as many processes as there are `workers`, by default one per core and at
    most MAX_WORKERS, decode some at a time.
    """
    form = sides, channels, fit
    chunks = _chunks(sources)
    for chunk in islice(chunks, ALONE // CHUNK):
        for name, source in chunk:
            yield name, _read(source, form)
    if (head := next(chunks, None)) is None:
        return
    workers = workers or min(cores(), MAX_WORKERS)
    asked: deque[tuple[list[Source], Future]] = deque()
    with _processes(workers, form) as decode:
        for chunk in chain([head], chunks):
            asked.append((chunk, decode(chunk)))
            if len(asked) == AHEAD * workers:
                yield from _answer(*asked.popleft())
        while asked:
            yield from _answer(*asked.popleft())


def _chunks(sources: Iterable[Source]) -> Iterator[list[Source]]:
    chunk, size = [], 0
    for name, source in sources:
        chunk.append((name, source))
        size += len(source) if isinstance(source, bytes) else 0
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _read(source: Path | str | bytes, form: Form) -> Found:
    try:
        return read_picture(source, *form)
    except UserError as error:  # without its traceback, which holds the file's content
        return UserError(str(error))


def _answer(chunk: list[Source], answer: Future) -> Iterator[tuple[str, Found]]:
    found, pixels = answer.result()
    start = 0
    for (name, _), each in zip(chunk, found, strict=True):
        if isinstance(each, str):
            yield name, UserError(each)
            continue
        end = start + prod(each)
        yield name, np.frombuffer(pixels[start:end], np.uint8).reshape(each)
        start = end


@contextmanager
def _processes(n: int, form: Form) -> Iterator[Callable[[list[Source]], Future]]:
    """Start n processes; give a function that has one of them decode a chunk.

    Each has a thread that waits for it, so that neither side waits for the other to read.
    """
    idle: SimpleQueue[Connection] = SimpleQueue()

    def ask(sources: list[str | bytes]) -> tuple[list[tuple[int, ...] | str], bytes]:
        process = idle.get()
        try:
            process.send(sources)
            return process.recv(), process.recv_bytes()
        except (EOFError, OSError):
            raise MemoryError("a process that decodes pictures was ended") from None
        finally:
            idle.put(process)

    with ThreadPoolExecutor(n) as threads, beside(_decode, [(form,)] * n) as processes:
        for process in processes:
            idle.put(process)
        yield lambda chunk: threads.submit(
            ask, [each if isinstance(each, bytes) else str(each) for _, each in chunk]
        )


def _decode(requests: Connection, form: Form) -> None:
    """Answer each list of sources by shapes, or what is wrong, and the pixels in one piece."""
    while True:
        found = [_read(source, form) for source in requests.recv()]
        pixels = [each for each in found if isinstance(each, np.ndarray)]
        requests.send([getattr(each, "shape", None) or str(each) for each in found])
        requests.send_bytes(b"".join(pixels))
