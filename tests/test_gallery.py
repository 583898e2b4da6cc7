"""All pictures of a model, from 2 to 100 classes: the same bytes everywhere, nothing cut off."""

import hashlib
import json
import os
import pickle
import string
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnn.results import gallery, metrics, suspects
from cnn.results.figures import DPI, set_style

ROOT = Path(__file__).parent.parent
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "accuracy": [0.8, 0.9, 0.95],
        "loss": [0.6, 0.3, 0.1],
        "validation_accuracy": [0.85, 0.91, 0.94],
        "validation_loss": [0.5, 0.25, 0.12],
    }
)
# As short as can be, as long as can be, letters, and a hundred of some length.
NAMES = {
    2: ["0", "1"],
    10: [f"An old steam locomotive of the Great Western Railway, no. {n}" for n in range(10)],
    26: list(string.ascii_uppercase),
    100: [f"the big road sign no. {n:02}" for n in range(100)],
}


def results_of(names: list[str], channels: int, n: int = 400, wrong: float = 0.1, **settings):
    """Return what is drawn of n images of noise, of which a share is read wrongly."""
    k, rng = len(names), np.random.default_rng(1)
    labels = np.arange(n) % k
    read = np.where(rng.random(n) < wrong, (labels + 1 + rng.integers(0, k - 1, n)) % k, labels)
    probabilities = np.full((n, k), 0.01, np.float32)
    probabilities[np.arange(n), read] = rng.uniform(1, 50, n)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    images = rng.random((n, 8, 12, channels), np.float32)
    tables = metrics.evaluate(labels, probabilities, names, bins=5).tables
    # Five-digit places, and as many as the default shows.
    doubted = suspects.Split(labels, probabilities, [""] * n)
    doubted = suspects.table({"validation": doubted}, names)[:20]
    tables["suspects"] = doubted.assign(index=doubted["index"] + 10_000)
    return gallery.Results(
        images,
        labels,
        read,
        probabilities.max(axis=1),
        names,
        HISTORY,
        tables,
        list(images[doubted["index"]]),
        **({"samples": 7, "mistakes": 6} | settings),
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return folder, figures and what was drawn of k classes, each once; pixels as in the files."""
    found = {}
    save = gallery.save

    def call(k: int) -> tuple[Path, dict[str, Figure], gallery.Results]:
        if k not in found:
            folder, figures = tmp_path_factory.mktemp(f"of {k}"), {}

            def save_and_keep(figure, path):
                save(figure, path)
                with Image.open(path) as image:
                    pixels = figure.canvas.buffer_rgba()
                    np.testing.assert_array_equal(image, pixels, path.name)
                figures[path.stem] = figure

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(gallery, "save", save_and_keep)
                results = results_of(NAMES[k], channels=3 if k == 100 else 1)
                gallery.draw_all(folder, results)
            found[k] = folder, figures, results
        return found[k]

    return call


def captions(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("k", NAMES)
def test_every_picture_has_its_caption_and_the_width_of_a_readme(drawn, k):
    folder, figures, _ = drawn(k)

    captions = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    assert list(figures) == list(captions) == list(gallery.PICTURES)
    assert list(captions.values()) == [picture.caption for picture in gallery.PICTURES.values()]
    assert {path.name for path in folder.iterdir()} == {
        "captions.json",
        *(f"{name}.png" for name in figures),
    }
    for name in figures:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width == 1000, name
            assert 200 <= image.height <= 1300, name
    assert plt.get_fignums() == []


def test_every_zlib_and_processor_give_the_bytes_that_are_recorded(tmp_path, monkeypatch):
    """If they change with deflate's version, so do all pictures: record it again.

    No line and no text, so that matplotlib has no part in it.
    """
    for name in ("zlib.compress", "zlib.compressobj", "PIL.Image.Image.save"):
        monkeypatch.setattr(name, None)
    set_style()
    figure = plt.figure(figsize=(0.9, 0.6))
    y, x = np.mgrid[:60, :90]
    pixels = np.stack([x * y, x + y, x**2 ^ y, np.full_like(x, 255)], axis=-1).astype(np.uint8)
    pixels[20:40, 10:80] = 255
    figure.figimage(pixels, origin="upper")

    gallery.save(figure, tmp_path / "a.png")

    plt.close(figure)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(image, pixels)
        assert {key: round(value[0]) for key, value in image.info.items()} == {"dpi": DPI}
    found = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert found == "7aa9e487e69e6c87cec5cb48871e7b334a7b589744586ea81ef5117e731d36cc"


@pytest.mark.parametrize("k", NAMES)
def test_nothing_is_cut_off(drawn, k):
    for name, figure in drawn(k)[1].items():
        width, height = figure.canvas.get_width_height()
        boxes = [ax.get_tightbbox() for ax in figure.axes]
        boxes += [text.get_window_extent() for ax in figure.axes for text in ax.texts]
        for box in boxes:
            assert -1 <= box.x0 <= box.x1 <= width + 1, name
            assert -1 <= box.y0 <= box.y1 <= height + 1, name


@pytest.mark.parametrize("k", NAMES)
def test_no_caption_of_an_image_runs_into_another(drawn, k):
    for name in ("samples", "mistakes", "suspects"):
        figure = drawn(k)[1][name]
        boxes = [each.get_window_extent() for each in figure.axes[0].texts + figure.axes[0].images]
        boxes += [figure._suptitle.get_window_extent()] if name != "samples" else []
        assert len(boxes) >= 12
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[number + 1 :]), name


@pytest.mark.parametrize("k", NAMES)
def test_no_name_of_a_class_runs_into_another(drawn, k):
    for name in ("report", "confusion"):
        ax = drawn(k)[1][name].axes[0]
        for labels, across in ((ax.get_xticklabels(), 0), (ax.get_yticklabels(), 1)):
            one, other = (ax.transData.transform((i, i))[across] for i in (0, 1))
            angle = labels[0].get_rotation()
            if 0 < angle < 90:  # it ends at its column
                anchors = {(label.get_ha(), label.get_rotation_mode()) for label in labels}
                assert anchors == {("right", "anchor")}, name
            if across == 0 and angle == 0:
                boxes = [label.get_window_extent() for label in labels]
                for left, right in zip(boxes, boxes[1:], strict=False):
                    assert not left.overlaps(right), name
            else:  # the lines of text lie side by side, as far apart as the cells
                lines = np.sin(np.radians(angle or 90)) * abs(other - one)
                assert lines >= labels[0].get_fontsize() * DPI / 72, name


@pytest.mark.parametrize("k", NAMES)
def test_all_classes_are_named_beside_the_confusion_matrix(drawn, k):
    ax = drawn(k)[1]["confusion"].axes[0]

    for axis in (ax.xaxis, ax.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert len(set(labels)) == len(labels) == k
        assert max(map(len, labels)) <= 14


@pytest.mark.parametrize(
    ("samples", "labels", "expected"),
    [
        (5, [0] * 9 + [1] * 3, [0, 9, 1, 10, 2]),  # as the test images of a folder lie
        (6, [0] * 9 + [1], [0, 9, 1, 2, 3, 4]),
        (5, [1, 1, 0, 2, 0], [2, 0, 3, 4, 1]),
        (5, np.repeat(np.arange(20), 3), [0, 12, 24, 36, 48]),
        (50, [1, 0, 0], [1, 0, 2]),
    ],
)
def test_the_samples_are_of_each_class_in_turn(samples, labels, expected):
    labels, names = np.array(labels), [f"{n}" for n in range(max(labels) + 1)]
    results = results_of(["0", "1"], 1)._replace(labels=labels, classes=names, samples=samples)

    assert results.sampled().tolist() == expected


def test_the_samples_have_predicted_and_true_class(drawn):
    _, figures, results = drawn(2)

    pairs = zip(results.predicted[:7], results.labels[:7], strict=True)
    assert captions(figures["samples"]) == [f"predicted {p}, true {a}" for p, a in pairs]
    for shown, image in zip(figures["samples"].axes[0].images, results.images, strict=False):
        np.testing.assert_array_equal(shown.get_array(), image[..., 0])


def test_images_in_colour_are_drawn_in_colour_under_shortened_names(drawn):
    _, figures, results = drawn(100)

    sampled = [0, 14, 28, 42, 57, 71, 85]  # seven of a hundred classes
    for shown, i in zip(figures["samples"].axes[0].images, sampled, strict=True):
        np.testing.assert_array_equal(shown.get_array(), results.images[i])
    for caption, read in zip(captions(figures["samples"]), results.predicted[sampled], strict=True):
        first, second = caption.split("\n")
        assert first.startswith("predicted the big")
        assert first.endswith(f"…o. {read:02}")
        assert second.startswith("true the big")


@pytest.mark.parametrize("k", [2, 100])
def test_the_mistakes_are_the_most_confident_ones(drawn, k):
    _, figures, results = drawn(k)
    wrong = np.flatnonzero(results.predicted != results.labels)
    worst = sorted(wrong, key=lambda i: -results.confidence[i])[:6]

    for caption, i in zip(captions(figures["mistakes"]), worst, strict=True):
        actual, read = (results.classes[each[i]] for each in (results.labels, results.predicted))
        assert caption.startswith(actual[:5])
        assert caption.endswith(f"{read[-5:]}, {results.confidence[i]:.1%}")
    assert figures["mistakes"].get_suptitle() == f"The 6 most confident of {len(wrong)} mistakes"


@pytest.mark.parametrize("k", [2, 10])
def test_the_labels_in_doubt_are_shown_with_their_place_and_what_is_read(drawn, k):
    _, figures, results = drawn(k)
    table, figure = results.tables["suspects"], figures["suspects"]

    shown = figure.axes[0].images
    assert len(shown) == len(table) == 20
    for image, caption, row in zip(shown, captions(figure), table.to_dict("records"), strict=True):
        np.testing.assert_array_equal(
            image.get_array(), results.images[row["index"] - 10_000, ..., 0]
        )
        place, label, read = caption.split("\n")
        assert place == f"validation {row['index']}"
        assert label.startswith("label ")
        assert (label[-1], read[-1]) == (row["label"][-1], row["predicted"][-1])


def test_mistakes_of_one_confidence_keep_their_order():
    results = results_of(NAMES[2], 1, n=40, wrong=0.5)
    wrong = np.flatnonzero(results.predicted != results.labels)

    assert results._replace(confidence=np.ones(40)).worst().tolist() == wrong[:6].tolist()


EMPTY = {
    "mistakes": "The 0 most confident of 0 mistakes",
    "suspects": "No label is in doubt",
}


def test_a_model_without_a_mistake_gets_empty_pictures():
    figure = plt.figure()
    results = results_of(NAMES[2], 1, wrong=0)

    for name, title in EMPTY.items():
        figure.clear()
        gallery.PICTURES[name].draw(figure, results)
        figure.canvas.draw()

        assert gallery.PICTURES[name].height(results) > 0
        assert figure.get_suptitle() == title
        assert captions(figure) == []
    plt.close(figure)


DRAW = """
import pickle
from pathlib import Path
from cnn.results import gallery

with open("results.pickle", "rb") as stream:
    gallery.draw_all(Path.cwd(), gallery.Results(*pickle.load(stream)))
"""
ODD = """
font.size: 30
font.family: serif
savefig.dpi: 37
savefig.bbox: tight
figure.facecolor: red
axes.prop_cycle: cycler('color', ['k'])
lines.linewidth: 9
image.interpolation: bicubic
text.usetex: True
"""


def test_no_setting_of_the_user_changes_a_byte(drawn, tmp_path):
    folder, figures, results = drawn(10)
    (tmp_path / "results.pickle").write_bytes(pickle.dumps(tuple(results)))
    (tmp_path / "matplotlibrc").write_text(ODD)
    odd = {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "svg", "TZ": "Asia/Tokyo"}

    subprocess.run(
        [sys.executable, "-c", DRAW],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | odd,
        check=True,
    )

    for name in figures:
        assert (tmp_path / f"{name}.png").read_bytes() == (folder / f"{name}.png").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_rows_with_a_caption_in_its_colour(channels):
    set_style()
    figure = plt.figure()
    images = np.random.default_rng(0).random((4, 9, 12, channels), np.float32)
    captions, colors = ["a", "b", "c", "$1"], ["black", "red", "black", "red"]

    (ax,) = gallery.draw_images(images, captions, colors, figure, columns=3, title="all").axes

    assert figure.get_suptitle() == "all"
    assert [text.get_text() for text in ax.texts] == captions
    assert [text.get_color() for text in ax.texts] == colors
    lefts, rights, bottoms, tops = np.transpose([shown.get_extent() for shown in ax.images])
    np.testing.assert_allclose((bottoms - tops) / (rights - lefts), 9 / 12)
    assert lefts[0] == lefts[3] < rights[0] < lefts[1] < rights[1] < lefts[2]
    assert tops[0] == tops[1] == tops[2] < bottoms[0] < tops[3]  # from the figure's upper edge
    for shown, image in zip(ax.images, images, strict=True):
        np.testing.assert_array_equal(shown.get_array(), image if channels == 3 else image[..., 0])
        if channels == 1:
            assert (shown.get_cmap().name, shown.get_clim()) == ("gray", (0, 1))
    plt.close(figure)
