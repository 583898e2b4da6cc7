"""What the pictures show is read back from their Axes; no setting of the user's changes them."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stages import figures
from stages.evaluate import evaluate

ROOT = Path(__file__).parent.parent
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2, 3],
        "accuracy": [0.8, 0.9, 0.95],
        "loss": [0.6, 0.3, 0.1],
        "validation_accuracy": [0.85, 0.91, 0.94],
        "validation_loss": [0.5, 0.25, 0.12],
        "learning_rate": [0.002, 0.001, 0.0001],
    }
)
NAMES = ["confusion", "learning_curves", "mistakes", "reliability", "report", "roc", "samples"]


@pytest.fixture
def ax():
    figures.set_style()
    figure, ax = plt.subplots()
    yield ax
    plt.close("all")


@pytest.fixture(scope="module")
def predictions(raw):
    """200 real digits with labels and probabilities, of which a few are wrong."""
    labels = raw["y_test"].astype(np.int64)
    probabilities = np.full((len(labels), 10), 0.01)
    rng = np.random.default_rng(1)
    predicted = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, 10, len(labels)), labels)
    probabilities[np.arange(len(labels)), predicted] = rng.uniform(0.3, 0.99, len(labels))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    images = raw["x_test"][..., None].astype(np.float32) / 255
    return images, labels, probabilities.astype(np.float32)


@pytest.fixture(scope="module")
def results(predictions):
    _, labels, probabilities = predictions
    return evaluate(labels, probabilities, bins=5)


def draw_and_keep(folder, images, labels, probabilities, results) -> dict:
    """Call draw_all with 7 samples and 6 mistakes; return {name: figure} as they were saved."""
    found = {}
    save = figures.Figure.savefig

    def keep(figure, path, **kwargs):
        save(figure, path, **kwargs)
        found[path.stem] = figure

    HISTORY.to_csv(folder / "training.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures.Figure, "savefig", keep)
        figures.draw_all(
            folder,
            folder / "training.csv",
            images,
            labels,
            probabilities,
            results,
            samples=7,
            mistakes=6,
        )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder with the PNGs of `drawn`."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def drawn(folder, predictions, results) -> dict:
    """{name: figure} of all pictures."""
    return draw_and_keep(folder, *predictions, results)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_curve_shows_training_and_validation_by_epoch(ax, metric):
    figures.draw_curve(HISTORY, metric, ax)

    training, validation = ax.get_lines()
    np.testing.assert_array_equal(training.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(training.get_ydata(), HISTORY[metric])
    np.testing.assert_array_equal(validation.get_ydata(), HISTORY[f"validation_{metric}"])
    legend = [text.get_text().split("\n")[0] for text in ax.get_legend().get_texts()]
    assert legend == ["training", "validation"]
    assert ax.get_title(loc="left") == metric.capitalize()
    assert ax.get_xlabel() == "epoch"
    assert ax.get_yscale() == ("log" if metric == "loss" else "linear")


def test_a_curve_of_one_epoch_can_be_drawn(ax):
    figures.draw_curve(HISTORY[:1], "loss", ax)
    ax.figure.canvas.draw()

    assert [tick for tick in ax.get_xticks() if tick == int(tick)] == list(ax.get_xticks())


def test_the_report_shows_each_score_to_three_decimals(ax, results):
    per_class = pd.DataFrame(results["per_class"])

    figures.draw_report(per_class, ax)

    shown = [text.get_text() for text in ax.texts]
    assert shown == [
        f"{value:.3f}" for name in ("precision", "recall", "f1") for value in per_class[name]
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["precision", "recall", "F1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(d) for d in range(10)]


def test_the_confusion_matrix_shows_the_counts_and_leaves_zeros_out(ax, results):
    confusion = pd.DataFrame(results["confusion"])

    figures.draw_confusion(confusion, ax)

    shown = [text.get_text() for text in ax.texts]
    assert shown == [str(count) if count else "" for count in confusion["count"]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "actual")
    shares = ax.collections[0].get_array().reshape(10, 10)
    np.testing.assert_allclose(shares, confusion["share"].to_numpy().reshape(10, 10))


def test_each_roc_curve_has_its_digit_and_auc_in_the_legend(ax, results):
    figures.draw_roc(pd.DataFrame(results["roc"]), ax)

    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    auc = {row["digit"]: row["roc_auc"] for row in results["per_class"]}
    assert legend == [f"{digit}   AUC {auc[digit]:.5f}" for digit in range(10)]
    for digit, line in enumerate(ax.get_lines()):
        tpr = [row["tpr"] for row in results["roc"] if row["digit"] == digit]
        np.testing.assert_array_equal(line.get_ydata(), tpr)
        assert line.get_drawstyle() == "steps-post"  # a rate holds until the next one is reached
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}
    assert len(looks) == 10


def test_the_roc_shows_the_corner(ax, results):
    figures.draw_roc(pd.DataFrame(results["roc"]), ax)

    assert ax.get_xlim() == (1e-4, 1e-1)
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] > 0
    assert ax.get_ylim()[1] >= 1


def test_the_roc_of_a_perfect_model_can_be_drawn(ax):
    perfect = evaluate(np.arange(10), np.eye(10, dtype=np.float32), bins=5)

    figures.draw_roc(pd.DataFrame(perfect["roc"]), ax)
    ax.figure.canvas.draw()

    low, high = ax.get_ylim()
    assert low < 1 <= high


def test_reliability_shows_accuracy_by_confidence_above_the_counts(results):
    figures.set_style()
    figure, axes = plt.subplots(2, 1)
    rows = pd.DataFrame(results["reliability"])

    upper, lower = figures.draw_reliability(rows, tuple(axes))

    points = upper.containers[0].lines[0]
    np.testing.assert_array_equal(points.get_xdata(), rows["confidence"])
    np.testing.assert_array_equal(points.get_ydata(), rows["accuracy"])
    assert [bar.get_height() for bar in lower.patches] == rows["count"].tolist()
    assert [text.get_text() for text in lower.texts] == [f"{n:,}" for n in rows["count"]]
    assert upper.get_ylabel() == "accuracy"
    assert lower.get_xlabel().startswith("confidence")
    plt.close(figure)


def test_the_samples_are_the_first_images_with_predicted_and_true_label(drawn, predictions):
    images, labels, probabilities = predictions
    predicted = probabilities.argmax(axis=1)

    axes = drawn["samples"].axes

    captions = [ax.get_title() for ax in axes]
    expected = [f"predicted {predicted[i]}, true {labels[i]}" for i in range(7)]
    assert captions == expected + [""] * 3  # two rows of five
    for ax, image in zip(axes[:7], images, strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array(), image[..., 0])


def test_the_mistakes_are_the_most_confident_ones(drawn, predictions):
    _, labels, probabilities = predictions
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = sorted(np.flatnonzero(predicted != labels), key=lambda i: -confidence[i])

    figure = drawn["mistakes"]

    captions = [ax.get_title() for ax in figure.axes]
    assert captions == [
        f"{labels[i]} read as {predicted[i]}, {confidence[i]:.1%}" for i in wrong[:6]
    ]
    assert figure.get_suptitle() == f"The 6 most confident of {len(wrong)} mistakes"


def test_a_model_without_a_mistake_gets_all_its_pictures(predictions, tmp_path):
    images, labels, _ = predictions
    perfect = np.eye(10, dtype=np.float32)[labels]

    found = draw_and_keep(tmp_path, images, labels, perfect, evaluate(labels, perfect, bins=5))

    assert sorted(found) == NAMES
    assert found["mistakes"].get_suptitle() == "The 0 most confident of 0 mistakes"


def test_no_figure_stays_open(drawn):
    assert plt.get_fignums() == []


def test_nothing_is_cut_off(drawn):
    for name, figure in drawn.items():
        width, height = figure.canvas.get_width_height()
        for ax in figure.axes:
            box = ax.get_tightbbox()
            assert -1 <= box.x0 <= box.x1 <= width + 1, name
            assert -1 <= box.y0 <= box.y1 <= height + 1, name


def test_all_pictures_are_as_wide_as_a_readme(drawn):
    assert sorted(drawn) == NAMES
    for figure in drawn.values():
        assert figure.get_figwidth() * figures.DPI == 1000


DRAW = """
import pickle, sys
from pathlib import Path
from stages import figures

with open("inputs.pickle", "rb") as stream:
    inputs = pickle.load(stream)
figures.draw_all(Path.cwd(), Path(sys.argv[1]), *inputs, samples=7, mistakes=6)
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
"""


def test_no_setting_of_the_user_changes_a_byte(drawn, folder, predictions, results, tmp_path):
    (tmp_path / "inputs.pickle").write_bytes(pickle.dumps((*predictions, results)))
    (tmp_path / "matplotlibrc").write_text(ODD)
    odd = {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "svg", "TZ": "Asia/Tokyo"}

    subprocess.run(
        [sys.executable, "-c", DRAW, str(folder / "training.csv")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | odd,
        check=True,
    )

    for name in drawn:
        assert (tmp_path / f"{name}.png").read_bytes() == (folder / f"{name}.png").read_bytes()
