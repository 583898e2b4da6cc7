"""Images of one's own through the whole pipeline, and a new version of them, with the real `dvc`.

docs/own-data.md walks through the same commands.
"""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clones import attempt, commit, dvc, git, make, repro
from tools import predict
from tools.compare.__main__ import main as compare

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


def add(clone, numbers: range) -> None:
    """Put pictures of these numbers into the folder of each class."""
    rng = np.random.default_rng(numbers.start)
    for shape in SHAPES:
        folder = clone / "data/raw/my signs" / shape
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            drawn(shape, rng).save(folder / f"{number}.png")


def read_json(clone, path):
    return json.loads((clone / path).read_text(encoding="utf-8"))


def test_a_folder_of_pictures_by_one_parameter(clone, monkeypatch, capsys):
    add(clone, range(20))
    dvc(clone, "add", "--quiet", "data/raw/my signs")
    git(clone, "add", ".")

    # Nothing is fetched: there is no source of MNIST here that could be reached.
    chosen = ("-S", "prepare.raw=data/raw/my signs", "-S", "train.epochs=6")
    done = attempt(clone, "dvc", "exp", "run", "--name", "signs", *chosen)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to fetch: prepare.raw is data/raw/my signs" in done.stdout
    assert "warning" not in done.stderr
    about = read_json(clone, "reports/prepare/data.json")
    assert list(about["images_by_class"]) == sorted(SHAPES)
    assert (about["height"], about["width"], about["channels"]) == (16, 20, 3)
    assert (about["train_images"], about["validation_images"], about["test_images"]) == (70, 10, 20)
    assert list(read_json(clone, "reports/evaluate/per_class.json")) == sorted(SHAPES)
    assert read_json(clone, "reports/evaluate/metrics.json")["accuracy"] > 0.5
    card = (clone / "reports/README.md").read_text(encoding="utf-8")
    assert (
        "Images from data/raw/my signs, a folder of pictures. 16 x 20 pixels, colour; 5 classes."
        in card
    )
    assert "MNIST" not in card
    with open(clone / "reports/predictions.csv", encoding="utf-8", newline="") as stream:
        assert {row["actual"] for row in csv.DictReader(stream)} == set(SHAPES)
    paths = ["data/raw/my signs/größer als/0.png", "data/raw/my signs/two lines/1.png"]
    monkeypatch.chdir(clone)
    predict.main(paths)
    for path, line in zip(paths, capsys.readouterr().out.splitlines(), strict=True):
        assert line.startswith(f"{path}: ")
        assert line.split(": ")[1].split(" (")[0] in SHAPES
    commit(clone, "first version")
    git(clone, "tag", "v1")


def test_a_new_version_of_the_data(clone, monkeypatch, capsys):
    assert repro(clone) == []

    add(clone, range(20, 30))
    assert "data/raw/my signs/circle/29.png" in dvc(clone, "diff")
    dvc(clone, "add", "--quiet", "data/raw/my signs")
    assert repro(clone) == ["prepare", "train", "evaluate", "report"]
    commit(clone, "more images")

    differences = json.loads(dvc(clone, "metrics", "diff", "v1", "--json"))
    assert "accuracy" in json.dumps(differences)
    dvc(clone, "plots", "diff", "v1", "--out", "plots")
    assert (clone / "plots/index.html").is_file()
    monkeypatch.chdir(clone)
    compare(["v1", "HEAD"])
    shared = re.match(
        r"Compared on the (\d+) test images that both share \(A has 20, B 30\)\.",
        capsys.readouterr().out,
    )
    assert 10 < int(shared[1]) <= 20  # most of those that were drawn are drawn again

    after = read_json(clone, "reports/prepare/data.json")
    git(clone, "checkout", "--quiet", "v1")
    dvc(clone, "checkout")
    assert repro(clone) == []
    assert len(list((clone / "data/raw/my signs").rglob("*.png"))) == 100
    assert read_json(clone, "reports/prepare/data.json") != after


def test_a_path_that_is_not_there_is_one_line_of_dvcs(clone):
    params = clone / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("data/raw/my signs", "data/raw/nowhere"))

    done = attempt(clone, "dvc", "repro", "prepare")
    params.write_text(text)

    assert done.returncode != 0
    assert "data/raw/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
