"""Each format that docs/own-data.md shows goes by one parameter to a model card, with real `dvc`.

The images are scikit-learn's digits in MNIST's form, 700 of them.
"""

import gzip
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cnn.published.datasets import to_idx
from stages import evaluate, prepare, train
from tests.helpers.clones import dvc, make, repro, set_params


@pytest.fixture(scope="module")
def clone(tmp_path_factory, tiny, raw):
    return make(tmp_path_factory.mktemp("formats") / "clone", tiny, raw)


def rows(raw):
    """Yield (split, number, label, image); the last 100 of the training images are validation."""
    for split, name, where in (
        ("train", "train", slice(400)),
        ("val", "train", slice(400, 500)),
        ("test", "test", slice(200)),
    ):
        images, labels = raw[f"x_{name}"][where], raw[f"y_{name}"][where]
        for number, (label, image) in enumerate(zip(labels, images, strict=True)):
            yield split, number, label, image


def folder(path, raw):
    """With val/, and writers' sub-folders, which differ between the splits."""
    for split, number, label, image in rows(raw):
        place = path / split / f"digit {label}" / f"{split} writer {number % 9}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")


def table(path, raw):
    (path / "scans").mkdir(parents=True)
    lines = ["file,label,split"]
    for split, number, label, image in rows(raw):
        Image.fromarray(image).save(path / "scans" / f"{split}{number}.png")
        lines.append(f"scans/{split}{number}.png,{label},{split}")
    (path / "labels.csv").write_text("\n".join(lines))


def medmnist(path, raw):
    arrays = {}
    for split in ("train", "val", "test"):
        _, _, labels, images = zip(*(row for row in rows(raw) if row[0] == split), strict=True)
        arrays |= {
            f"{split}_images": np.stack(images),
            f"{split}_labels": np.array(labels)[:, None],
        }
    np.savez_compressed(path, **arrays)


def idx(path, raw):
    """Transposed, as EMNIST's."""
    path.mkdir()
    for split, name in (("train", "train"), ("test", "test")):
        for kind, array in (
            ("images-idx3", np.ascontiguousarray(raw[f"x_{name}"].swapaxes(1, 2))),
            ("labels-idx1", raw[f"y_{name}"]),
        ):
            with gzip.open(path / f"emnist-digits-{split}-{kind}-ubyte.gz", "wb", 1) as file:
                file.writelines(to_idx(array))


def mlxtend(path, raw):
    with gzip.open(path, "wt") as file:
        for _, _, label, image in rows(raw):
            print(*image.ravel().tolist(), label, sep=",", file=file)


def hugging_face(path, raw):
    import pyarrow as arrow
    from pyarrow import parquet

    (path / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        images, labels = [], []
        for _, number, label, image in (row for row in rows(raw) if row[0] == split):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "PNG")
            images.append({"bytes": stream.getvalue(), "path": f"{number}.png"})
            labels.append(int(label))
        written = arrow.table({"image": images, "label": labels})
        parquet.write_table(written, path / f"data/{name}-00000-of-00001.parquet")


# Name, what writes it, further parameters, what the card calls it, how many images of each split.
FORMATS = [
    ("folder", folder, {"groups": True}, "a folder of pictures", [400, 100, 200]),
    ("scans", table, {}, "a table of pictures", [400, 100, 200]),
    ("medmnist.npz", medmnist, {}, "an npz", [400, 100, 200]),
    ("emnist", idx, {"transpose": True}, "IDX files, rows and columns exchanged", [450, 50, 200]),
    ("digits.csv.gz", mlxtend, {}, "a CSV of pixels", [504, 56, 140]),
    ("parquet", hugging_face, {}, "Parquet", [400, 100, 200]),
]
NAMES = [each[0] for each in FORMATS]


def check(about, name, called, counts):
    found = [about[f"{split}_images"] for split in ("train", "validation", "test")]
    assert np.allclose(found, counts, atol=5)  # each class is rounded
    assert (about["height"], about["width"], about["channels"], about["classes"]) == (28, 28, 1, 10)
    assert about["description"] == f"Images from {name}, {called}."


@pytest.mark.parametrize(("name", "write", "more", "called", "counts"), FORMATS, ids=NAMES)
def test_each_format_is_prepared_by_one_parameter(
    tmp_path, monkeypatch, tiny, raw, name, write, more, called, counts
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, raw)
    params = tiny | {"prepare": tiny["prepare"] | {"raw": name} | more}
    (tmp_path / "params.yaml").write_text(json.dumps(params))

    prepare.main(
        [f"--raw={name}", "--summary=data.json"]
        + [f"--{split}={split}.npz" for split in ("train", "validation", "test")]
    )

    check(json.loads((tmp_path / "data.json").read_text("utf-8")), name, called, counts)


@pytest.mark.parametrize(
    ("name", "write", "more", "called", "counts"), [FORMATS[0], FORMATS[-2]], ids=["folder", "csv"]
)
def test_a_format_by_one_parameter_to_a_model_card(
    clone, tiny, raw, name, write, more, called, counts
):
    write(clone / "data/raw" / name, raw)
    dvc(clone, "add", "--quiet", f"data/raw/{name}")
    chosen = {"raw": f"data/raw/{name}"} | more
    set_params(clone, tiny | {"prepare": tiny["prepare"] | chosen})

    assert repro(clone) == ["fetch", "prepare", "train", "evaluate", "report"]

    about = json.loads((clone / "reports/prepare/data.json").read_text(encoding="utf-8"))
    check(about, f"data/raw/{name}", called, counts)
    card = (clone / "reports/README.md").read_text(encoding="utf-8")
    assert f"Images from data/raw/{name}, {called}. 28 x 28 pixels, grey; 10 classes." in card
    metrics = json.loads((clone / "reports/evaluate/metrics.json").read_text(encoding="utf-8"))
    assert metrics["accuracy"] > 0.3  # by chance 0.1; the training is a moment's


def test_wide_and_tall_ellipses_are_told_apart(tmp_path, monkeypatch, params):
    """As keras-team/keras#4987 has it: resized to squares, they are the same circles."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size in (("tall", (30, 90)), ("wide", (90, 30))):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(60):
            picture = Image.new("L", size, int(rng.integers(0, 30)))
            margin = int(rng.integers(1, 8))
            corner = size[0] - margin, size[1] - margin
            ImageDraw.Draw(picture).ellipse(
                (margin, margin, *corner), fill=int(rng.integers(90, 256))
            )
            picture.save(tmp_path / "mine" / name / f"{number}.png")
    chosen = {
        "prepare": {"raw": "mine", "image_size": 28},
        "train": {"epochs": 10, "batch_size": 16},
    }
    given = {name: section | chosen.get(name, {}) for name, section in params.items()}
    (tmp_path / "params.yaml").write_text(json.dumps(given))
    split = ["--train=train.npz", "--validation=validation.npz"]
    model = ["--model=cnn.keras", "--history=training.csv"]

    prepare.main([*split, "--test=test.npz", "--raw=mine", "--summary=data.json"])
    train.main([*split, *model, "--environment=environment.json"])
    evaluate.main(
        [*model, "--test=test.npz", split[1], "--predictions=predictions.npz", "--reports=reports"]
    )

    metrics = json.loads((tmp_path / "reports/metrics.json").read_text("utf-8"))
    assert metrics["accuracy"] == 1
