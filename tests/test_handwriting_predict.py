"""The program as a person runs it: good files, hostile files and hostile models."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnn.base.program import run
from cnn.model import archive
from cnn.model.archive import Adam
from cnn.model.network import network_of
from handwriting import predict

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the first ten digits of scikit-learn's, 0.png to 9.png."""
    for number, digit in enumerate(load_digits().images[:10]):
        large = Image.fromarray(np.uint8(255 - digit * 15)).resize((80, 80))
        large.save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it raises


def call(*arguments: object) -> int:
    return run(lambda: predict.main([str(argument) for argument in arguments]))


def write_model(path: Path, shape=(28, 28, 1), classes=10, weight=0.0) -> Path:
    """Write a small model, whose weights are all the same number, and return its path."""
    network = network_of((2, 2), 3, (2,), 0.0, shape, classes)
    arrays = [np.full(each, weight, np.float32) for each in network.shapes()]
    archive.write(path, network, arrays, Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, []))
    return path


def test_digits_in_a_folder_are_read_in_order(folder, reader, capsys):
    (folder / "notes.txt").write_text("no image")
    (folder / "again").symlink_to(folder)  # a loop that is not followed
    assert call(folder, "--model", reader) == 0
    output, errors = capsys.readouterr()
    lines = output.splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == [f"{n}.png" for n in range(10)]
    assert sum(line.split(": ")[1][0] == str(n) for n, line in enumerate(lines)) >= 8
    assert errors == ""


def test_json_is_one_object_per_line(folder, reader, capsys):
    Image.open(folder / "3.png").save(folder / "a b\nü.png")
    frames = [Image.open(folder / "4.png"), Image.open(folder / "5.png")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "bad.png").write_bytes(b"bad")
    assert call(folder, "--json", "--model", reader) == 1
    output, errors = capsys.readouterr()
    results = [json.loads(line) for line in output.splitlines()]
    assert len(results) == 12
    for result in results:
        assert list(result) == ["image", "digit", "probability", "probabilities"]
        assert len(result["probabilities"]) == 10
        assert sum(result["probabilities"]) == pytest.approx(1, abs=1e-4)
        assert result["probability"] == max(result["probabilities"])
        assert result["probabilities"].index(result["probability"]) == result["digit"]
        assert Path(result["image"]).exists()
    assert len(errors.splitlines()) == 2
    assert "bad.png: not an image" in errors
    assert "moving.gif: the first of its frames" in errors


def test_names_are_escaped_on_one_line(folder, reader, capsys):
    strange = folder / "new\nline\x1b[31m ü.png"
    strange.write_bytes((folder / "1.png").read_bytes())
    raw = os.fsencode(folder) + b"/\xff.png"
    shutil.copy(folder / "1.png", raw)
    assert call(strange, os.fsdecode(raw), "--model", reader) == 0
    output = capsys.readouterr().out
    assert len(output.splitlines()) == 2
    assert r"new\nline\x1b[31m ü.png: 1" in output
    assert r"\udcff.png: 1" in output


def png_that_claims(width: int, height: int, good: bytes) -> bytes:
    """Return a PNG whose header names another size than its data have."""
    header = good[12:16] + struct.pack(">II", width, height) + good[24:29]
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


def hostile(folder: Path) -> dict[str, str]:
    """Make a hostile file of each kind; return its path and what its error must say."""
    good = (folder / "1.png").read_bytes()
    for name, data in {
        "empty.png": b"",
        "cut.png": good[: len(good) // 2],
        "text.png": b"just a text",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "code.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "bomb.png": png_that_claims(30_000, 30_000, good),
        "large.png": png_that_claims(4001, 4000, good),
    }.items():
        (folder / name).write_bytes(data)
    Image.new("L", (1, 1)).save(folder / "one.png")
    Image.new("L", (90, 90), 255).save(folder / "blank.png")
    Image.new("L", (90, 90), 0).save(folder / "ink.png")
    Image.fromarray(np.full((40, 40), np.nan, dtype=np.float32)).save(folder / "nan.tiff")
    Image.open(folder / "1.png").save(folder / "lzw.tiff", compression="tiff_lzw")
    broken = bytearray((folder / "lzw.tiff").read_bytes())
    broken[10:60] = b"\xff" * 50
    (folder / "lzw.tiff").write_bytes(broken)
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nothing").mkdir()
    return {
        "empty.png": "the file is empty",
        "cut.png": "damaged",
        "text.png": "not an image",
        "svg.png": "not an image",
        "code.eps": "not an image",
        "bomb.png": "at most 16,000,000 pixels",
        "large.png": "at most 16,000,000",
        "one.png": "1x1 pixels cannot hold a digit",
        "blank.png": "no ink",
        "ink.png": "no ink",
        "nan.tiff": "not finite",
        "lzw.tiff": "damaged",
        "pipe.png": "not a regular file",
        "loop.png": "symbolic links",
        "nothing": "no images",
        "missing.png": "No such file",
        "/dev/zero": "not a regular file",
    }


def test_each_hostile_file_gets_its_line_and_the_others_are_read(folder, reader, capfd):
    causes = hostile(folder)
    names = [os.path.join(folder, name) for name in causes]

    code = call(*names[:8], folder / "1.png", *names[8:], "--model", reader)

    output, errors = capfd.readouterr()  # libtiff would write past Python's sys.stderr
    assert code == 1
    assert output.startswith(f"{folder}/1.png: 1 (")
    assert output.count("\n") == 1
    for line, name, cause in zip(errors.splitlines(), names, causes.values(), strict=True):
        assert line.startswith(f"error: {name}: ")
        assert cause in line


def test_a_pipe_that_closes_early_ends_it_quietly(folder, reader):
    """As in `python -m handwriting.predict ... | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "handwriting.predict", folder, "--model", reader]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == -signal.SIGPIPE


def test_a_missing_model_is_reported_with_the_command_that_makes_one(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert call("1.png") == 1
    assert capsys.readouterr() == ("", "error: models/cnn.keras: is missing; run 'make repro'\n")


@pytest.mark.parametrize(
    "shape, classes, cause",
    [
        ((28, 28, 3), 10, "its input is [28, 28, 3], not [28, 28, 1]"),
        ((28, 28, 1), 26, "its output is [26], not [10]"),
    ],
)
def test_a_model_of_other_images_or_classes_is_refused(folder, capsys, shape, classes, cause):
    path = write_model(folder / "other.keras", shape, classes)
    assert call(folder / "1.png", "--model", path) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: {cause}; choose another, ")


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_model_that_gives_no_probabilities_is_refused(folder, capsys, words):
    """Its weights are numbers, but so large that what comes out is none."""
    path = write_model(folder / "other.keras", weight=1e38)
    assert call(folder / "1.png", "--model", path, *words) == 1
    line = "error: the model gives no probabilities; choose another with --model\n"
    assert capsys.readouterr() == ("", line)


def test_a_file_that_may_not_be_read_is_named(folder, reader, capsys, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied")

    # As root, nothing is refused for real.
    monkeypatch.setattr("cnn.base.files.os.open", refuse)
    monkeypatch.setattr("handwriting.predict.os.stat", refuse)
    monkeypatch.setattr("pathlib.Path.stat", refuse)
    assert call(folder / "1.png", "--model", reader) == 1
    assert capsys.readouterr().err == f"error: {folder}/1.png: Permission denied\n"


def test_show_draws_one_row_per_image(folder, reader, tmp_path):
    picture = tmp_path / "seen.png"
    assert call(folder / "1.png", "--show", picture, "--model", reader) == 0
    one = Image.open(picture).size
    assert call(folder / "1.png", folder / "2.png", "--show", picture, "--model", reader) == 0
    assert Image.open(picture).size == (one[0], 2 * one[1])


def test_show_draws_a_picture_of_16_bits_as_it_looks(folder, reader, tmp_path):
    plain = Image.open(folder / "1.png")
    Image.fromarray(np.asarray(plain, dtype=np.uint16) * 256).save(tmp_path / "deep.png")
    panels = []
    for image in (folder / "1.png", tmp_path / "deep.png"):
        assert call(image, "--show", tmp_path / "seen.png", "--model", reader) == 0
        shown = np.asarray(Image.open(tmp_path / "seen.png").convert("L"), dtype=float)
        panels.append(shown[40:, : shown.shape[1] // 4])  # the left panel, without its title
    assert np.abs(panels[0] - panels[1]).mean() < 8
    assert panels[0].std() > 40


def test_show_that_cannot_be_written_is_an_error(folder, reader, capsys):
    where = folder / "1.png" / "seen.png"
    assert call(folder / "1.png", "--show", where, "--model", reader) == 1
    assert capsys.readouterr().err.startswith(f"error: {folder / '1.png'}: File exists; ")


def test_show_never_writes_over_a_picture(folder, reader, capsys):
    photo = folder / "photo.jpg"
    Image.open(folder / "1.png").save(photo)
    for show in (photo, folder / "1.png"):
        before = show.read_bytes()
        assert call(folder / "1.png", "--show", show, "--model", reader) == 1
        assert capsys.readouterr().err.startswith(f"error: --show {show}: ")
        assert show.read_bytes() == before


def test_the_sentence_names_a_close_second_and_says_unsure():
    def sentence(first: float, second: float) -> str:
        values = np.full(10, (1 - first - second) / 8)
        values[7], values[1] = first, second
        return predict.sentence("a.png", values, "")

    assert sentence(0.98, 0.01) == "a.png: 7 (98.0%)"
    assert sentence(0.8, 0.15) == "a.png: 7 (80.0%), or 1 (15.0%)"
    assert sentence(0.5, 0.3) == "a.png: 7 (50.0%), or 1 (30.0%), unsure"
