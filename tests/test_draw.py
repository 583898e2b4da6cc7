"""The page in a real browser, drawn on with the pointer; and what its server refuses."""

import http.client
import io
import json
import socket
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

from cnn.base.errors import UserError
from cnn.model import archive
from cnn.model.archive import Adam
from handwriting import draw

STROKES = {  # in shares of the canvas
    0: [(0.5, 0.15), (0.32, 0.3), (0.3, 0.65), (0.45, 0.85), (0.62, 0.8), (0.7, 0.5), (0.62, 0.22),
        (0.5, 0.15)],
    2: [(0.33, 0.3), (0.42, 0.17), (0.6, 0.17), (0.66, 0.32), (0.55, 0.55), (0.32, 0.82),
        (0.7, 0.82)],
    3: [(0.35, 0.2), (0.6, 0.16), (0.66, 0.32), (0.48, 0.46), (0.68, 0.62), (0.62, 0.82),
        (0.34, 0.84)],
}  # fmt: skip
CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip


def drawn(digit: int) -> np.ndarray:
    """Return a digit of STROKES as the page would send it."""
    image = Image.new("L", (210, 210), 255)
    points = [(210 * x, 210 * y) for x, y in STROKES[digit]]
    ImageDraw.Draw(image).line(points, fill=17, width=14, joint="curve")
    return np.asarray(image)


@pytest.fixture(scope="module")
def port(reader: Path):
    with draw.server(reader, 0) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_digits_drawn_with_the_pointer_are_read(port: int, browser_path: str):
    asked: list[str] = []
    problems: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 900, "height": 700})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        for digit, points in STROKES.items():
            box = page.locator("#pad").bounding_box()
            x, y, side = box["x"], box["y"], box["width"]
            page.mouse.move(x + side * points[0][0], y + side * points[0][1])
            page.mouse.down()
            for right, down in points[1:]:
                page.mouse.move(x + side * right, y + side * down, steps=6)
            page.mouse.up()
            page.wait_for_function(
                "digit => document.getElementById('digit').textContent === digit", arg=str(digit)
            )
            shares = page.locator("#bars li").all_inner_texts()
            assert len(shares) == 10
            assert "%" in shares[digit]
            seen = page.evaluate(
                "[...document.getElementById('seen').getContext('2d')"
                ".getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
            )
            assert 20 * 255 < sum(seen) < 300 * 255
            page.keyboard.press("Escape")
            assert page.locator("#digit").inner_text() == ""
            assert page.locator("#words").inner_text() == "Nothing drawn yet"
        browser.close()
    assert problems == []
    assert {url.split("/", 3)[2] for url in asked} == {f"127.0.0.1:{port}"}


def ask(port: int, method="POST", path="/predict", body=b"", headers=None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "image/png", **(headers or {})}
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_is_answered(port: int):
    status, answer = ask(port, body=png(drawn(3)))
    assert status == 200
    assert answer["digit"] == 3
    assert len(answer["probabilities"]) == 10
    assert len(answer["seen"]) == 784


def too_large(reader: Path, path: Path, bias: float) -> Path:
    """Write the reader with weights that are numbers, but too large to compute with."""
    network, arrays = archive.read(reader)
    weights = [np.full_like(array, 1e38 if array.ndim > 1 else bias) for array in arrays]
    archive.write(path, network, weights, Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, weights, weights, []))
    return path


def test_a_model_that_gives_no_probabilities_is_refused_at_the_start(reader: Path, tmp_path):
    with pytest.raises(UserError, match="the model gives no probabilities; choose another"):
        draw.server(too_large(reader, tmp_path / "cnn.keras", bias=1e38), 0)


def test_a_digit_for_which_the_model_gives_no_probabilities_is_refused(reader: Path, tmp_path):
    with draw.server(too_large(reader, tmp_path / "cnn.keras", bias=0), 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        status, answer = ask(server.server_address[1], body=png(drawn(3)))
        server.shutdown()
    assert status == 422
    assert answer["error"].startswith("the model gives no probabilities; ")


def test_what_is_no_image_is_refused(port: int):
    assert ask(port, body=b"text")[0] == 400
    assert ask(port, body=b"")[0] == 400
    assert ask(port, body=b"text", headers={"Content-Type": "text/plain"})[0] == 415
    assert ask(port, body=png(np.full((90, 90), 255, np.uint8)))[0] == 422
    assert ask(port, headers={"Content-Length": "1000001"})[0] == 413
    assert ask(port, headers={"Content-Length": "9" * 5000})[0] == 413
    assert ask(port, headers={"Content-Length": "-1"})[0] == 411
    assert ask(port, headers={"Content-Length": "²"})[0] in (400, 411)
    assert ask(port, headers={"Transfer-Encoding": "chunked"})[0] == 411


def test_only_the_page_is_served_and_only_to_itself(port: int):
    for path in ("/dvc.lock", "/../dvc.lock", "/predict", "//etc/passwd", "/?a=b"):
        assert ask(port, "GET", path)[0] == 404
    assert ask(port, path="/")[0] == 404
    body = png(drawn(2))
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": ""}):
        assert ask(port, body=body, headers=headers)[0] == 403
    own = f"localhost:{port}"
    assert ask(port, body=body, headers={"Host": own, "Origin": f"http://{own}"})[0] == 200


def test_the_server_is_bound_to_loopback_and_names_a_taken_port(reader: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: .*choose another with --port"):
            draw.server(reader, port)
    with pytest.raises(UserError, match="port 70000"):
        draw.server(reader, 70000)
    with draw.server(reader, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "error, said", [(ConnectionResetError(), False), (BrokenPipeError(), False), (KeyError(), True)]
)
def test_only_a_closed_page_prints_nothing(capfd, error, said):
    with draw.Server(("127.0.0.1", 0), draw.Handler) as server:
        try:
            raise error
        except Exception:
            server.handle_error(None, ("127.0.0.1", 1))
    assert ("Traceback" in capfd.readouterr().err) is said
