"""Pictures are classified by the trained model, in the form and under the names of its data."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from cnn import kernels
from cnn.base.program import run
from cnn.data.pictures import to_pixels
from cnn.data.sets import load
from cnn.model import archive
from cnn.model.archive import Adam
from stages import evaluate
from tools import predict


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch):
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, None)  # to import it raises


@pytest.fixture
def folder(prepared, tmp_path):
    """Three test images as PNG files."""
    images = load(prepared / "test.npz").images[:3]
    for number, image in enumerate(images):
        Image.fromarray(np.uint8(np.rint(255 * image[..., 0]))).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def call(trained, prepared, capsys):
    """Run the tool on the tiny model; return its exit code and what it printed."""

    def call(*words) -> tuple[int, str, str]:
        flags = [f"--model={trained / 'cnn.keras'}", f"--data={prepared / 'data.json'}"]
        code = run(lambda: predict.main([*map(str, words), *flags]))
        return code, *capsys.readouterr()

    return call


def test_a_picture_gets_the_class_that_evaluate_gives_it(call, folder, trained, prepared):
    given = load(prepared / "test.npz")
    expected = evaluate.predict(given, trained / "cnn.keras", "exact")[:3]

    code, output, errors = call(folder, "--json")

    rows = [json.loads(line) for line in output.splitlines()]
    assert (code, errors) == (0, "")
    assert [row["image"] for row in rows] == [str(folder / f"{n}.png") for n in range(3)]
    for row, probabilities in zip(rows, expected, strict=True):
        assert row["class"] == str(probabilities.argmax())
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, atol=1e-6)


def test_another_size_and_colour_are_brought_into_form(call, folder):
    Image.open(folder / "0.png").resize((280, 280)).convert("RGB").save(folder / "large.jpg")

    code, output, _ = call(folder / "0.png", folder / "large.jpg")

    plain, large = (line.split(": ")[1].split(" ")[0] for line in output.splitlines())
    assert (code, plain) == (0, large)


def test_a_file_that_prepare_would_refuse_is_one_line_and_the_others_are_read(call, folder):
    (folder / "bad.png").write_text("no picture")
    Image.fromarray(np.ones((28, 28), np.float32)).save(folder / "float.tiff")

    code, output, errors = call(folder, folder / "missing.png")

    assert code == 1
    assert output.count("\n") == 3
    bad, floats, missing = errors.splitlines()
    assert bad.startswith(f"error: {folder}/bad.png: not an image")
    assert floats.startswith(f"error: {folder}/float.tiff: has pixels of mode F; save it in 8 or")
    assert missing == f"error: {folder}/missing.png: No such file or directory"


def test_a_picture_is_fitted_as_prepare_did_it_and_padded_where_that_is_not_recorded(
    call, folder, prepared, trained, tmp_path, capsys
):
    bare = np.asarray(Image.open(folder / "0.png"))
    wide = Image.fromarray(np.pad(bare, ((0, 0), (14, 14))))
    wide.save(tmp_path / "wide.png")
    images = {
        fit: to_pixels(wide, (28, 28), 1, fit)[None] / np.float32(255)
        for fit in ("pad", "stretch", "crop")
    }
    network, weights = archive.read(trained / "cnn.keras")[:2]
    about = json.loads((prepared / "data.json").read_text())
    words = [str(tmp_path / "wide.png"), "--json"]
    words += [f"--model={trained / 'cnn.keras'}", f"--data={tmp_path / 'data.json'}"]
    rows = {}
    for fit in (None, *images):
        about.pop("fit", None)
        (tmp_path / "data.json").write_text(json.dumps(about | ({"fit": fit} if fit else {})))
        assert predict.main(words) == 0
        rows[fit] = list(json.loads(capsys.readouterr().out)["probabilities"].values())
    for fit, image in images.items():
        expected = kernels.probabilities(network, weights, image)[0]
        np.testing.assert_allclose(rows[fit], expected, atol=1e-6)
    assert rows[None] == rows["pad"] != rows["stretch"]


def test_without_a_model_it_says_how_to_make_one(folder, prepared, capsys):
    words = [str(folder), "--model=nowhere.keras", f"--data={prepared / 'data.json'}"]

    assert run(lambda: predict.main(words)) == 1
    assert capsys.readouterr().err == "error: nowhere.keras: is missing; run 'make repro'\n"


def test_a_model_that_gives_no_probabilities_is_refused(folder, trained, prepared, capsys):
    """Its weights are numbers, but so large that what comes out is none."""
    network, arrays = archive.read(trained / "cnn.keras")
    arrays = [np.full_like(array, 1e38) for array in arrays]
    path = folder / "cnn.keras"
    archive.write(path, network, arrays, Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, []))
    words = [str(folder), f"--model={path}", f"--data={prepared / 'data.json'}"]

    assert run(lambda: predict.main(words)) == 1
    line = f"error: {path}: gives no probabilities; choose another with --model\n"
    assert capsys.readouterr() == ("", line)


def test_a_name_that_is_no_text_is_shown_by_its_bytes(call, folder):
    (folder / "0.png").rename(folder / "caf\udce9.png")  # as Latin-1 has it
    code, output, _ = call(folder / "caf\udce9.png")
    assert code == 0
    assert output.startswith(f"{folder}/caf\\udce9.png: ")
