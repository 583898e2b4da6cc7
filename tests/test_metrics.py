"""The metrics and tables agree with what is worked out by hand, for any number of classes."""

import math
import string

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cnn.results import metrics

TEN = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay"]


def probabilities_of(predicted, confidence=0.91, classes=10) -> np.ndarray:
    """Return rows that give `confidence` to the predicted class and share the rest evenly."""
    confidence = np.broadcast_to(np.asarray(confidence, float), (len(predicted),))
    rows = np.repeat(((1 - confidence) / (classes - 1))[:, None], classes, axis=1)
    rows[np.arange(len(predicted)), predicted] = confidence
    return rows.astype(np.float32)


def named(k: int) -> list[str]:
    """Return the names of k classes."""
    return [f"{letter}{number}" for number in range(4) for letter in string.ascii_lowercase][:k]


def drawn(k: int, n: int = 400, seed: int = 1):
    """Return the labels of n images, each class among them, and probabilities at random."""
    rng = np.random.default_rng(seed)
    return np.arange(n) % k, rng.dirichlet(np.ones(k), n).astype(np.float32)


@pytest.fixture(scope="module")
def worked():
    """Confusions of ants, bees and cats, worked out by hand; the others are read correctly, once.

    Ants: three times ant, once bee. Bees: twice bee, twice cat. Cats: four times cat, once ant.
    """
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, *range(3, 10)]
    predicted = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, *range(3, 10)]
    return metrics.evaluate(np.array(labels), probabilities_of(predicted), TEN, bins=10)


def test_the_headlines_by_hand(worked):
    headlines, scores, _ = worked

    assert headlines["accuracy"] == 16 / 20
    assert headlines["errors"] == 4
    assert headlines["accuracy_low"] < 16 / 20 < headlines["accuracy_high"]
    balanced = (3 / 4 + 2 / 4 + 4 / 5 + 7) / 10
    assert headlines["balanced_accuracy"] == pytest.approx(balanced)
    assert headlines["balanced_low"] < balanced < headlines["balanced_high"]
    # 16 right with 0.91, 4 wrong of which the actual class was given 0.01.
    by_hand = -(16 * math.log(0.91) + 4 * math.log(0.01)) / 20
    assert headlines["log_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert scores["calibration_error"] == pytest.approx(0.91 - 0.8, abs=1e-6)  # of one confidence


def test_the_confusion_matrix_by_hand(worked):
    confusion = worked[2]["confusion"].set_index(["actual", "predicted"])
    by_hand = {("ant", "ant"): 3, ("ant", "bee"): 1, ("bee", "bee"): 2, ("bee", "cat"): 2}
    by_hand |= {("cat", "cat"): 4, ("cat", "ant"): 1}
    by_hand |= {(name, name): 1 for name in TEN[3:]}

    assert list(confusion.index) == [(actual, read) for actual in TEN for read in TEN]
    assert confusion.query("count > 0")["count"].to_dict() == by_hand
    assert confusion.loc[("cat", "ant"), "share"] == 1 / 5


def test_the_balanced_accuracy_shows_a_rare_class_that_is_never_read():
    """712 images against 6: accuracy alone says 99 %."""
    labels = np.repeat([0, 1], [712, 6])

    found = metrics.headlines(labels, probabilities_of(np.zeros(718, int), classes=2))

    assert found["accuracy"] > 0.99
    assert found["balanced_accuracy"] == 0.5
    assert found["balanced_high"] < 0.75


def test_precision_recall_and_f1_by_hand(worked):
    _, scores, tables = worked
    columns = ["precision", "recall", "f1", "support"]

    assert tables["per_class"]["class"].tolist() == TEN
    np.testing.assert_allclose(
        tables["per_class"][columns],
        [[3 / 4, 3 / 4, 3 / 4, 4], [2 / 3, 2 / 4, 4 / 7, 4], [4 / 6, 4 / 5, 8 / 11, 5]]
        + [[1, 1, 1, 1]] * 7,
    )
    assert scores["macro_precision"] == pytest.approx((3 / 4 + 2 / 3 + 4 / 6 + 7) / 10)
    assert scores["macro_recall"] == pytest.approx((3 / 4 + 2 / 4 + 4 / 5 + 7) / 10)
    assert scores["macro_f1"] == pytest.approx((3 / 4 + 4 / 7 + 8 / 11 + 7) / 10)


def test_two_classes_by_hand():
    """Of four cats one is read as a dog, of two dogs none as a cat."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = probabilities_of([0, 0, 0, 1, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.9, 0.55], 2)

    headlines, scores, tables = metrics.evaluate(labels, probabilities, ["cat", "dog"], bins=2)

    np.testing.assert_allclose(
        tables["per_class"][["precision", "recall", "f1", "support"]],
        [[1, 3 / 4, 6 / 7, 4], [2 / 3, 1, 4 / 5, 2]],
    )
    # Dogs score 0.9 and 0.55; cats 0.1, 0.2, 0.3 and 0.6: of eight pairs one is in wrong order.
    assert tables["per_class"]["roc_auc"].tolist() == [7 / 8, 7 / 8]
    assert tables["confusion"]["count"].tolist() == [3, 1, 0, 2]
    losses = [0.9, 0.8, 0.7, 0.4, 0.9, 0.55]
    assert headlines["log_loss"] == pytest.approx(-np.log(losses).mean(), rel=1e-5)
    assert headlines["accuracy"] == 5 / 6
    # All confidences lie in the upper bin.
    mean = (0.9 + 0.8 + 0.7 + 0.6 + 0.9 + 0.55) / 6
    assert scores["calibration_error"] == pytest.approx(abs(5 / 6 - mean), abs=1e-6)


def test_reliability_and_its_error_by_hand():
    confidence = np.array([0.4, 0.6, 0.9])
    right = np.array([True, False, True])

    table = metrics.reliability(confidence, right, bins=2)

    assert table[["bin_low", "bin_high", "count"]].values.tolist() == [[0, 0.5, 1], [0.5, 1, 2]]
    assert table["confidence"].tolist() == pytest.approx([0.4, 0.75])
    assert table["accuracy"].tolist() == [1, 0.5]
    assert metrics.calibration_error(table) == pytest.approx(1 / 3 * 0.6 + 2 / 3 * 0.25)


def test_bins_are_closed_above_and_empty_ones_left_out():
    confidence = np.array([0.5, 0.50001, 1.0])

    table = metrics.reliability(confidence, np.ones(3, bool), bins=4)

    assert table[["bin_low", "count"]].values.tolist() == [[0.25, 1], [0.5, 1], [0.75, 1]]


def test_the_roc_of_a_class_by_hand():
    """Ants score 0.9 and 0.4, one other animal 0.6, the eight others 0.1."""
    labels = np.array([0, 0, *range(1, 10)])
    probabilities = probabilities_of(labels, 0.9)
    probabilities[:, 0] = [0.9, 0.4, 0.6] + [0.1] * 8

    table = metrics.per_class(labels, probabilities, TEN)
    curves = metrics.roc_curves(labels, probabilities, table)

    curve = curves[curves["class"] == "ant"]
    assert curve["fpr"].tolist() == metrics.ROC_GRID.tolist()
    assert (curve["fpr"].iloc[0], curve["fpr"].iloc[-1], len(curve)) == (0, 1, 100)
    # The second ant costs one of nine; of 18 pairs of an ant and another, 17 are ordered correctly.
    assert curve["tpr"].tolist() == [0.5 if fpr < 1 / 9 else 1 for fpr in curve["fpr"]]
    assert curve["auc"].tolist() == pytest.approx([17 / 18] * 100)


@pytest.mark.parametrize("k", [2, 10, 11, 26, 100])
def test_the_tables_agree_with_each_other_and_the_ten_weakest_classes_have_curves(k):
    labels, probabilities = drawn(k)
    right = probabilities.argmax(axis=1) == labels

    headlines, scores, tables = metrics.evaluate(labels, probabilities, named(k), bins=15)

    numbers = [*headlines.values(), *scores.values()]
    assert all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
    assert all(table.notna().all().all() for table in tables.values())
    confusion, per_class = tables["confusion"], tables["per_class"]
    diagonal = confusion[confusion["actual"] == confusion["predicted"]]
    assert len(confusion) == k * k
    assert confusion["count"].sum() == tables["reliability"]["count"].sum() == 400
    assert headlines["errors"] == 400 - diagonal["count"].sum() == (~right).sum()
    assert diagonal["share"].tolist() == pytest.approx(per_class["recall"].tolist())
    assert per_class["support"].sum() == 400
    assert headlines["balanced_accuracy"] == pytest.approx(scores["macro_recall"])
    assert confusion.groupby("actual")["share"].sum().tolist() == pytest.approx([1] * k)

    auc = [roc_auc_score(labels == label, probabilities[:, label]) for label in range(k)]
    assert per_class["roc_auc"].tolist() == auc
    assert scores["macro_roc_auc"] == pytest.approx(np.mean(auc))
    weakest = sorted(sorted(range(k), key=lambda label: auc[label])[:10])
    curves = tables["roc"].groupby("class", sort=False)["auc"].first()
    assert curves.index.tolist() == [named(k)[label] for label in weakest]
    assert curves.tolist() == [auc[label] for label in weakest]
    assert len(tables["roc"]) == 100 * len(weakest)


def test_a_class_that_is_never_predicted_has_precision_0():
    _, scores, tables = metrics.evaluate(np.arange(10), probabilities_of([0] * 10), TEN, bins=10)

    assert tables["per_class"]["precision"].tolist() == [0.1] + [0] * 9
    assert scores["macro_precision"] == pytest.approx(0.01)


def test_a_model_without_a_mistake_has_perfect_metrics():
    headlines, scores, _ = metrics.evaluate(
        np.arange(10), np.eye(10, dtype=np.float32), TEN, bins=5
    )

    assert (headlines["accuracy"], headlines["errors"], scores["macro_roc_auc"]) == (1, 0, 1)
    assert headlines["log_loss"] == pytest.approx(0, abs=1e-12)
    assert scores["calibration_error"] == 0
