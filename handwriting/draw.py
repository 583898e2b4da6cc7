"""Serve a page to draw a digit on, with the pipeline's model behind it.

Reads a model and handwriting/draw.html, answers on this computer only:

    python -m handwriting.draw [--model models/cnn.keras] [--port 8000]
"""

import argparse
import json
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

import numpy as np

from cnn.base.errors import UserError
from cnn.base.program import run
from cnn.data.pictures import decode
from handwriting.ink import to_mnist
from handwriting.predict import UNSURE, load_reader, probabilities_of

PAGE = Path(__file__).with_name("draw.html")
MAX_BODY = 1_000_000
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Handler(BaseHTTPRequestHandler):
    """GET / is the page, POST /predict takes an image and answers with JSON; nothing else."""

    protocol_version = "HTTP/1.1"
    timeout = 10

    def __init__(self, *arguments, model, lock: Lock):
        self.model, self.lock = model, lock
        super().__init__(*arguments)

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if status >= 400 and status != 422:  # the rest of the request was perhaps not read
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, cause: str) -> None:
        self.answer(status, json.dumps({"error": cause}).encode())

    def is_ours(self) -> bool:
        """Tell whether the request names this server: another site's page must not reach it."""
        port = self.server.server_address[1]
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        origins = {None} | {f"http://{host}" for host in hosts}
        return self.headers.get("Host") in hosts and self.headers.get("Origin") in origins

    def do_GET(self) -> None:
        if not self.is_ours():
            return self.refuse(403, "only this computer's own page is served")
        if self.path != "/":
            return self.refuse(404, "there is nothing here")
        self.answer(200, PAGE.read_bytes(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not self.is_ours():
            return self.refuse(403, "only this computer's own page is served")
        if self.path != "/predict":
            return self.refuse(404, "there is nothing here")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            return self.refuse(411, "the length of the image is missing")
        if len(length) > 9 or int(length) > MAX_BODY:
            return self.refuse(413, f"at most {MAX_BODY:,} bytes are read")
        if not self.headers.get("Content-Type", "").startswith("image/"):
            return self.refuse(415, "only images are read")
        body = self.rfile.read(int(length))
        with self.lock:  # what libtiff prints is hidden by turning the process' standard error away
            try:
                image, _ = decode(body)
            except UserError as error:
                return self.refuse(400, str(error))
            try:
                seen = to_mnist(image)
                probabilities = probabilities_of(self.model, seen[None])[0]
            except UserError as error:
                return self.refuse(422, str(error))
        result = {
            "digit": int(probabilities.argmax()),
            "unsure": bool(probabilities.max() < UNSURE),
            "probabilities": [round(float(value), 4) for value in probabilities],
            "seen": seen.ravel().tolist(),
        }
        self.answer(200, json.dumps(result).encode())

    def log_message(self, *_: object) -> None:
        """Keep the terminal quiet: a request comes with every stroke."""


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a page that went away before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server(model_path: Path, port: int) -> ThreadingHTTPServer:
    """Return the server, bound to loopback; port 0 takes a free one."""
    model = load_reader(model_path)
    probabilities_of(model, np.zeros((1, 28, 28), np.uint8))  # refused now, if ever
    handler = partial(Handler, model=model, lock=Lock())
    try:
        return Server(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"port {port}: {cause}; choose another with --port") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="handwriting.draw", description="A page to draw a digit on."
    )
    parser.add_argument("--model", type=Path, default=Path("models/cnn.keras"))
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args(argv)
    with server(arguments.model, arguments.port) as page:
        print(f"draw at http://127.0.0.1:{page.server_address[1]}/ (Ctrl+C ends it)", flush=True)
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
