"""Images of one's own through the whole pipeline, and a new version of them, with the real `dvc`.

docs/own-data.md walks through the same commands.
"""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.clones import attempt, commit, dvc, git, make, repro, run

SHAPES = ("circle", "größer als", "square", "two lines", "triangle")


def drawn(shape: str, rng: np.random.Generator) -> Image.Image:
    """Return a picture of a class, 20 x 16 pixels in colour: noise, and a sign of the class."""
    pixels = rng.integers(0, 60, (16, 20, 3), dtype=np.uint8)
    start = 3 * SHAPES.index(shape)
    pixels[start : start + 3, 2:18] = (220, 40 * SHAPES.index(shape), 120)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def clone(base, tiny, raw):
    return make(base / "clone", tiny, raw)


def read_json(clone, path):
    return json.loads((clone / path).read_text(encoding="utf-8"))


def test_a_folder_of_pictures_by_one_parameter(clone, tiny):
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        (clone / "data/raw/signs" / shape).mkdir(parents=True)
        for number in range(20):
            drawn(shape, rng).save(clone / "data/raw/signs" / shape / f"{number}.png")
    dvc(clone, "add", "--quiet", "data/raw/signs")
    git(clone, "add", ".")

    # Nothing is fetched: there is no source of MNIST here that could be reached.
    chosen = ("-S", "prepare.raw=data/raw/signs", "-S", "train.epochs=6")
    done = attempt(clone, "dvc", "exp", "run", "--name", "signs", *chosen)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to fetch: prepare.raw is data/raw/signs" in done.stdout
    assert "warning" not in done.stderr
    about = read_json(clone, "reports/prepare/data.json")
    assert list(about["images_by_class"]) == sorted(SHAPES)
    assert (about["height"], about["width"], about["channels"]) == (16, 20, 3)
    assert (about["train_images"], about["validation_images"], about["test_images"]) == (70, 10, 20)
    assert list(read_json(clone, "reports/evaluate/per_class.json")) == sorted(SHAPES)
    assert read_json(clone, "reports/evaluate/metrics.json")["accuracy"] > 0.5
    card = (clone / "reports/README.md").read_text(encoding="utf-8")
    assert "Images from data/raw/signs. 16 x 20 pixels, colour; 5 classes." in card
    assert "MNIST" not in card
    with open(clone / "reports/predictions.csv", encoding="utf-8", newline="") as stream:
        assert {row["actual"] for row in csv.DictReader(stream)} == set(SHAPES)
    for path in ("data/raw/signs/größer als/0.png", "data/raw/signs/two lines/1.png"):
        line = run(clone, "python", "-m", "tools.predict", path)
        assert line.startswith(f"{path}: ")
        assert line.split(": ")[1].split(" (")[0] in SHAPES
    git(clone, "checkout", "--quiet", ".")
    git(clone, "reset", "--quiet", "--hard")


def save(clone, digits, n: int) -> None:
    """Write the first n of scikit-learn's digits, 8 x 8, as an npz; the last 200 are its test."""
    np.savez(
        clone / "data/raw/small.npz",
        x_train=(digits.images[:n] * 15.9).astype(np.uint8),
        y_train=digits.target[:n],
        x_test=(digits.images[-200 - n // 100 :] * 15.9).astype(np.uint8),
        y_test=digits.target[-200 - n // 100 :],
        classes=np.array([f"digit {label}" for label in range(10)]),
    )


def test_a_new_version_of_the_data(clone):
    digits = load_digits()
    save(clone, digits, 400)
    dvc(clone, "add", "--quiet", "data/raw/small.npz")
    params = clone / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("data/raw/published.npz", "data/raw/small.npz"))
    assert repro(clone) == ["fetch", "prepare", "train", "evaluate", "report"]
    commit(clone, "first version")
    git(clone, "tag", "v1")

    save(clone, digits, 900)
    assert "data/raw/small.npz" in dvc(clone, "diff")
    dvc(clone, "add", "--quiet", "data/raw/small.npz")
    assert repro(clone) == ["prepare", "train", "evaluate", "report"]
    commit(clone, "more images")

    differences = json.loads(dvc(clone, "metrics", "diff", "v1", "--json"))
    assert "accuracy" in json.dumps(differences)
    dvc(clone, "plots", "diff", "v1", "--out", "plots")
    assert (clone / "plots/index.html").is_file()
    told = run(clone, "python", "-m", "tools.compare", "v1", "HEAD")
    assert told.startswith("Compared on the 204 test images that both share (A has 204, B 209).")

    after = read_json(clone, "reports/prepare/data.json")
    git(clone, "checkout", "--quiet", "v1")
    dvc(clone, "checkout")
    assert repro(clone) == []
    with np.load(clone / "data/raw/small.npz") as arrays:
        assert len(arrays["y_train"]) == 400
    assert read_json(clone, "reports/prepare/data.json") != after


def test_a_path_that_is_not_there_is_one_line_of_dvcs(clone):
    params = clone / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("data/raw/small.npz", "data/raw/nowhere.npz"))

    done = attempt(clone, "dvc", "repro", "prepare")
    params.write_text(text)

    assert done.returncode != 0
    assert "data/raw/nowhere.npz" in done.stderr
    assert "Traceback" not in done.stderr
