"""Servers that misbehave: on loopback, with all waiting cut short."""

import gzip
import http.server
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np

from cnn.published import sources
from cnn.published.datasets import PUBLISHED
from stages import fetch
from tests.faults.common import Fault, Given, called, files_below, refused

MOST = 2**20  # bytes that a file may unfold to, here
STALL = 0.3  # seconds without a byte
ENOUGH = 1.5  # seconds that a server may take for everything


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    whole = (given.folder / "mnist/mnist.npz").read_bytes()
    del os.environ["MNIST_DIR"]
    os.environ |= {"KERAS_HOME": str(given.folder / "keras"), "PATH": "", "NO_PROXY": "*"}
    raw = given.folder / "data/raw/published.npz"
    with (
        patch("pooch.os_cache", lambda name: given.folder / "cache" / name),
        patch("time.sleep", lambda seconds: None),  # pooch waits between its tries
        patch.multiple(sources, MOST=MOST, TIMEOUT=STALL, LONGEST=ENOUGH),
    ):
        for what, serve in servers(whole).items():
            for mirrored in (False, True):
                with Serving(serve) as address:
                    path = {"npz": "", "mirrors": (address,)} if mirrored else {
                        "npz": f"{address}mnist.npz", "mirrors": ()}  # fmt: skip
                    here = PUBLISHED["mnist"]._replace(npm="", folder="", **path)
                    with patch.dict(PUBLISHED, mnist=here):
                        began = time.monotonic()
                        ended = called(fetch.main, given.fetch(raw))
                        took = time.monotonic() - began
                lines = [each for each in ended.errors.splitlines() if each.startswith("note: ")]
                problem = refused(ended, "MNIST could not be fetched", address)
                if len(lines) != 1:
                    problem = problem or f"{len(lines)} notes: {ended.errors!r}"
                if took > 20 * ENOUGH or files_below(given.folder / "data"):
                    problem = problem or f"took {took:.0f} s, left {files_below(given.folder)}"
                yield Fault(f"{'a mirror: ' if mirrored else ''}{what}", problem)
        with Serving(lambda handler: _send(handler, whole)) as address:
            here = PUBLISHED["mnist"]._replace(npz=f"{address}mnist.npz", npm="", folder="")
            with patch.dict(PUBLISHED, mnist=here):
                ended = called(fetch.main, given.fetch(raw))
    problem = "" if raw.is_file() and raw.read_bytes() == whole else ended.errors or "not there"
    yield Fault("one that is right", problem)


def _send(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int | None = None,
          status: int = 200, **headers: str) -> None:  # fmt: skip
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def servers(whole: bytes) -> dict[str, Callable]:
    """Return {how it misbehaves: what it does with a request}."""
    other = io.BytesIO()
    np.savez(other, x_train=np.zeros(3))

    def stall(handler):
        _send(handler, whole[:1000], len(whole))
        _wait()

    def silent(handler):
        _wait()

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(2**16))

    def drip(handler):
        _send(handler, b"", 10**6)
        while True:
            _wait(STALL / 3)
            handler.wfile.write(bytes(2**10))
            handler.wfile.flush()

    def unpacks_for_ever(handler):
        _send(handler, gzip.compress(bytes(50 * MOST)))

    return {
        "a page of HTML": lambda h: _send(h, b"<!doctype html><title>Log in</title>" * 50),
        "nothing": lambda h: _send(h, b""),
        "half of it": lambda h: _send(h, whole[: len(whole) // 2], len(whole)),
        "half of it, said to be all": lambda h: _send(h, whole[: len(whole) // 2]),
        "a bit flipped": lambda h: _send(h, whole[:5000] + b"!" + whole[5001:]),
        "a length too great": lambda h: _send(h, whole, 2 * len(whole)),
        "a length of 10^15": lambda h: _send(h, whole, 10**15),
        "a length of a word": lambda h: _send(h, whole, "many"),
        "other arrays": lambda h: _send(h, other.getvalue()),
        "not found": lambda h: h.send_error(404),
        "an error": lambda h: h.send_error(500),
        "to itself for ever": lambda h: _send(h, b"", status=302, Location=h.path),
        "to a file": lambda h: _send(h, b"", status=302, Location="file:///etc/passwd"),
        "no HTTP": lambda h: h.wfile.write(b"\x16\x03\x01 what?\r\n\r\n"),
        "closed at once": lambda h: None,
        "stalls half-way": stall,
        "silent": silent,
        "endless": endless,
        "a little at a time": drip,
        "unpacks for ever": unpacks_for_ever,
    }


_over = threading.Event()


def _wait(seconds: float = 60) -> None:
    """Wait, as `time.sleep` does that is switched off here, or until the server is stopped."""
    if _over.wait(seconds):
        raise ConnectionError


class Serving:
    """Serve on loopback while the block runs; gives the address."""

    def __init__(self, serve: Callable):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                self.close_connection = True
                serve(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # the client has left
                pass

        _over.clear()
        self.server = Server(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        _over.set()
        self.server.shutdown()
        self.server.server_close()
