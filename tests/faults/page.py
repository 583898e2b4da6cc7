"""The drawing page: many requests at once, slow ones, halves, and what is no request."""

import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from cnn.model.archive import Model
from cnn.model.network import network_of
from handwriting import draw
from tests.faults.common import Fault, Given

SECONDS = 60.0  # until an answer must have come


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    """With a model that says 3 to everything: what is tried is the server."""
    network = network_of((2,), 3, (), 0.0, (28, 28, 1), 10)
    model = Model(network, [np.zeros(shape, np.float32) for shape in network.shapes()])
    model.weights[-1][3] = 9
    errors = io.StringIO()
    handler = type("Handler", (draw.Handler,), {"timeout": 1})  # else 10 s for each slow one
    with (
        contextlib.redirect_stderr(errors),
        draw.Server(
            ("127.0.0.1", 0), partial(handler, model=model, lock=threading.Lock())
        ) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        body = _digit()
        many = 200 if full else 50
        with ThreadPoolExecutor(many) as pool:
            whole = _request(port, body)
            for answer in pool.map(lambda _: _ask(port, whole), range(many)):
                yield Fault("one of many at once", _is(answer, 200))
        for what, request, status in _odd(port, body, rng):
            yield Fault(what, _is(_ask(port, request), status))
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for each in slow:
            each.sendall(whole[:30])
        yield Fault("an answer with 20 slow ones open", _is(_ask(port, whole), 200))
        for each in slow:
            each.settimeout(SECONDS)
            yield Fault("a slow one is left", "" if each.recv(1) == b"" else "was answered")
            each.close()
        yield Fault("an answer after all of them", _is(_ask(port, whole), 200))
        server.shutdown()
    yield Fault("nothing on standard error", errors.getvalue())


def _digit() -> bytes:
    image = Image.new("L", (210, 210), 255)
    ImageDraw.Draw(image).line([(105, 30), (100, 180)], fill=17, width=14)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _request(port: int, body: bytes, *, length: object = None, **headers: str) -> bytes:
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "image/png",
        "Content-Length": str(len(body) if length is None else length),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /predict HTTP/1.1\r\n{head}\r\n".encode() + body


def _odd(
    port: int, body: bytes, rng: np.random.Generator
) -> Iterator[tuple[str, bytes, int | None]]:
    """Yield what it is, the request, and the status of the answer; None is no answer."""
    yield "half of the body, then nothing", _request(port, body[:50], length=len(body)), None
    yield "no body", _request(port, b"", length=100), None
    yield "half an image", _request(port, body[: len(body) // 2]), 400
    yield "a length of a word", _request(port, body, length="many"), 411
    yield "no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400
    for _ in range(10):
        yield "noise", _request(port, rng.bytes(int(rng.integers(1, 3000)))), 400


def _ask(port: int, request: bytes) -> bytes:
    """Send a request and return the answer, b"" where there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while not (b"\r\n\r\n" in answer and answer.endswith((b"}", b">\n", b"html>"))):
                if not (more := connection.recv(2**16)):
                    break
                answer += more
        except TimeoutError:
            return b"no end"
        except ConnectionError:
            pass  # it was answered, or left, before all was read
        return answer


def _is(answer: bytes, status: int | None) -> str:
    if status is None:
        return f"was answered: {answer[:80]!r}" if answer else ""
    first, _, rest = answer.partition(b"\r\n")
    if f" {status} ".encode() not in first:
        return f"was answered {first!r}, not {status}"
    if status == 200:
        digit = json.loads(rest.partition(b"\r\n\r\n")[2])["digit"]
        return "" if digit == 3 else f"gave {digit}"
    return ""
