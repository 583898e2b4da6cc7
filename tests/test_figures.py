"""What each picture shows is read back from its Axes."""

import string

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cnn.results import figures, metrics

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


@pytest.fixture
def ax():
    figures.set_style()
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def names(k: int) -> list[str]:
    letters = string.ascii_uppercase
    return [f"class {letters[number // 26]}{letters[number % 26]}" for number in range(k)]


@pytest.fixture(scope="module")
def tables_of():
    """Return the tables of k classes, of which a tenth of 400 images are read wrongly."""
    found = {}

    def call(k: int) -> dict[str, pd.DataFrame]:
        if k not in found:
            rng = np.random.default_rng(1)
            labels = np.arange(400) % k
            read = np.where(rng.random(400) < 0.1, rng.integers(0, k, 400), labels)
            probabilities = np.full((400, k), 0.01)
            probabilities[np.arange(400), read] = rng.uniform(0.3, 0.99, 400)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            found[k] = metrics.evaluate(
                labels, probabilities.astype(np.float32), names(k), 5
            ).tables
        return found[k]

    return call


def labels_of(ticks) -> list[str]:
    return [label.get_text() for label in ticks]


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


@pytest.mark.parametrize("k", [2, 15, 16, 27])
def test_the_report_shows_each_score_upright_where_classes_are_many_and_only_the_weakest(
    ax, tables_of, k
):
    table = tables_of(k)["per_class"]
    if k > figures.ROWS:
        table = table.sort_values("f1", kind="stable")[: figures.ROWS]
    ax.figure.set_size_inches(10, 4 if k <= figures.FEW else 1 + 0.3 * len(table))  # as in gallery

    figures.draw_report(tables_of(k)["per_class"], ax)

    scores, columns = table[["precision", "recall", "f1"]].to_numpy(), ax.get_xticklabels()
    rows = ax.get_yticklabels()
    if k <= figures.FEW:
        scores, columns, rows = scores.T, rows, columns
    assert labels_of(ax.texts) == [f"{score:.3f}" for score in scores.ravel()]
    assert labels_of(columns) == ["precision", "recall", "F1"]
    assert labels_of(rows) == table["class"].tolist()
    which = f"class, the 26 weakest of {k}" if k > 26 else "class"
    assert ax.get_title(loc="left") == f"Precision, recall and F1 by {which}"


@pytest.mark.parametrize("k", [2, 15, 16, 40])
def test_the_confusion_matrix_is_coloured_by_share_and_has_the_counts_of_few_classes(
    ax, tables_of, k
):
    confusion = tables_of(k)["confusion"].copy()
    confusion.loc[0, "count"] = 12_345

    figures.draw_confusion(confusion, ax)

    shares = ax.collections[0].get_array().reshape(k, k)
    np.testing.assert_allclose(shares, confusion["share"].to_numpy().reshape(k, k))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "actual")
    assert labels_of(ax.get_xticklabels()) == labels_of(ax.get_yticklabels()) == names(k)
    counts = [f"{count:,}" if count else "" for count in confusion["count"]]
    assert labels_of(ax.texts) == (counts if k <= 15 else [])


@pytest.mark.parametrize("k", [2, 40])
def test_each_roc_curve_has_its_class_and_auc_in_the_legend(ax, tables_of, k):
    roc = tables_of(k)["roc"]

    figures.draw_roc(roc, ax)

    curves = list(roc.groupby("class", sort=False))
    assert len(curves) == min(k, 10)
    legend = labels_of(ax.get_legend().get_texts())
    assert legend == [f"{name}   AUC {curve['auc'].iloc[0]:.5f}" for name, curve in curves]
    for (_, curve), line in zip(curves, ax.get_lines(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), curve["tpr"])
        assert line.get_drawstyle() == "steps-post"  # a rate holds until the next one is reached
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}
    assert len(looks) == len(curves)


def test_the_roc_shows_the_corner(ax, tables_of):
    roc = tables_of(10)["roc"].assign(tpr=lambda table: 0.9 + table["tpr"] / 10)

    figures.draw_roc(roc, ax)

    assert ax.get_xlim() == (1e-4, 1e-1)
    assert ax.get_xscale() == "log"
    low, high = ax.get_ylim()
    assert 0.89 < low < 0.91
    assert 1 <= high < 1.01


def test_the_roc_of_a_perfect_model_can_be_drawn(ax):
    perfect = metrics.evaluate(np.arange(10), np.eye(10, dtype=np.float32), names(10), bins=5)

    figures.draw_roc(perfect.tables["roc"], ax)
    ax.figure.canvas.draw()

    low, high = ax.get_ylim()
    assert low < 1 <= high


def test_reliability_shows_accuracy_by_confidence_above_the_counts(tables_of):
    figures.set_style()
    figure, axes = plt.subplots(2, 1)
    table = tables_of(10)["reliability"]

    upper, lower = figures.draw_reliability(table, tuple(axes))

    points = upper.containers[0].lines[0]
    np.testing.assert_array_equal(points.get_xdata(), table["confidence"])
    np.testing.assert_array_equal(points.get_ydata(), table["accuracy"])
    bars = upper.containers[0].lines[2][0].get_segments()
    ends = table[["accuracy_low", "accuracy_high"]].to_numpy()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], ends)
    assert [bar.get_height() for bar in lower.patches] == table["count"].tolist()
    assert labels_of(lower.texts) == [f"{n:,}" for n in table["count"]]
    assert upper.get_ylabel() == "accuracy"
    assert lower.get_xlabel().startswith("confidence")
    plt.close(figure)


@pytest.mark.parametrize(
    ("name", "most", "shortened"),
    [
        ("Ankle boot", 14, "Ankle boot"),
        ("fourteen chars", 14, "fourteen chars"),
        ("fifteen letters", 14, "fifteen …tters"),
        ("a road sign, number 12", 20, "a road sign, n…er 12"),
        ("x" * 60, 24, "x" * 18 + "…" + "x" * 5),
        ("七つの文字です", 14, "七つの文字です"),  # of two columns each
        ("八つの文字ですよ", 14, "八つの文…すよ"),
        ("हिन्दी में लंबा नाम यहाँ", 14, "हिन्दी में …म यहाँ"),  # not within a letter and its signs
        ("العربية", 14, "\u200eالعربية\u200e"),
    ],
)
def test_a_long_name_is_shortened_in_its_middle(name, most, shortened):
    assert figures.short(name, most) == shortened
    assert figures.columns_of(shortened) <= most
