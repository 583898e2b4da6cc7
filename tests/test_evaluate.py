"""The metrics agree with what is worked out by hand; the files have their documented form."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from stages import evaluate, model
from stages.dataset import load, write_arrays

TABLES = {
    "confusion": ["actual", "predicted", "count", "share"],
    "per_class": ["digit", "precision", "recall", "f1", "roc_auc", "support"],
    "reliability": [
        "bin_low",
        "bin_high",
        "count",
        "confidence",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
    ],
    "roc": ["digit", "auc", "fpr", "tpr"],
}
METRICS = [
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "errors",
    "log_loss",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "macro_roc_auc",
    "calibration_error",
]


def probabilities_of(predicted, confidence=0.91) -> np.ndarray:
    """Return rows that give `confidence` to the predicted digit and share the rest evenly."""
    confidence = np.broadcast_to(np.asarray(confidence, float), (len(predicted),))
    rows = np.repeat(((1 - confidence) / 9)[:, None], 10, axis=1)
    rows[np.arange(len(predicted)), predicted] = confidence
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def worked():
    """Confusions among 0, 1 and 2, worked out by hand; 3 to 9 are read rightly, once each.

    actual 0: three times 0, once 1; actual 1: twice 1, twice 2; actual 2: four times 2, once 0.
    """
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, *range(3, 10)]
    predicted = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0, *range(3, 10)]
    return evaluate.evaluate(np.array(labels), probabilities_of(predicted), bins=10)


def test_accuracy_and_errors_by_hand(worked):
    assert worked["metrics"]["accuracy"] == 16 / 20
    assert worked["metrics"]["errors"] == 4


def test_the_confusion_matrix_by_hand(worked):
    cells = {(row["actual"], row["predicted"]): row for row in worked["confusion"]}
    by_hand = {(0, 0): 3, (0, 1): 1, (1, 1): 2, (1, 2): 2, (2, 2): 4, (2, 0): 1}
    by_hand |= {(digit, digit): 1 for digit in range(3, 10)}

    assert len(worked["confusion"]) == 100
    assert {cell: row["count"] for cell, row in cells.items() if row["count"]} == by_hand
    assert cells[2, 0]["share"] == 1 / 5


def test_precision_recall_and_f1_by_hand(worked):
    columns = ("precision", "recall", "f1", "support")
    found = [[row[name] for name in columns] for row in worked["per_class"]]

    np.testing.assert_allclose(
        found,
        [[3 / 4, 3 / 4, 3 / 4, 4], [2 / 3, 2 / 4, 4 / 7, 4], [4 / 6, 4 / 5, 8 / 11, 5]]
        + [[1, 1, 1, 1]] * 7,
    )
    metrics = worked["metrics"]
    assert metrics["macro_precision"] == pytest.approx((3 / 4 + 2 / 3 + 4 / 6 + 7) / 10)
    assert metrics["macro_recall"] == pytest.approx((3 / 4 + 2 / 4 + 4 / 5 + 7) / 10)
    assert metrics["macro_f1"] == pytest.approx((3 / 4 + 4 / 7 + 8 / 11 + 7) / 10)


def test_log_loss_by_hand(worked):
    # 16 right with 0.91, 4 wrong of which the actual digit was given 0.01.
    by_hand = -(16 * math.log(0.91) + 4 * math.log(0.01)) / 20

    assert worked["metrics"]["log_loss"] == pytest.approx(by_hand, rel=1e-5)


def test_calibration_error_by_hand_when_all_have_one_confidence(worked):
    assert worked["metrics"]["calibration_error"] == pytest.approx(0.91 - 0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (9935, 10_000, 0.9917244, 0.9948966),
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
    ],
)
def test_the_wilson_interval_by_hand(right, n, low, high):
    assert evaluate.wilson_interval(right, n) == pytest.approx((low, high), abs=1e-7)


def test_the_wilson_interval_is_wilsons_formula():
    share, n, z = 0.9935, 10_000, 1.959963984540054
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))

    assert evaluate.wilson_interval(9935, n) == pytest.approx((middle - half, middle + half))


def test_reliability_and_its_error_by_hand():
    confidence = np.array([0.4, 0.6, 0.9])
    right = np.array([True, False, True])

    rows = evaluate.reliability(confidence, right, bins=2)

    assert [(row["bin_low"], row["bin_high"], row["count"]) for row in rows] == [
        (0, 0.5, 1),
        (0.5, 1, 2),
    ]
    assert [row["confidence"] for row in rows] == pytest.approx([0.4, 0.75])
    assert [row["accuracy"] for row in rows] == [1, 0.5]
    assert evaluate.calibration_error(rows) == pytest.approx(1 / 3 * 0.6 + 2 / 3 * 0.25)


def test_bins_are_closed_above_and_empty_ones_left_out():
    confidence = np.array([0.5, 0.50001, 1.0])

    rows = evaluate.reliability(confidence, np.ones(3, bool), bins=4)

    assert [(row["bin_low"], row["count"]) for row in rows] == [(0.25, 1), (0.5, 1), (0.75, 1)]


def test_the_roc_of_a_digit_by_hand():
    """Zeros score 0.9 and 0.4, one other digit 0.6, the eight others 0.1."""
    labels = np.array([0, 0, *range(1, 10)])
    probabilities = probabilities_of(labels, 0.9)
    probabilities[:, 0] = [0.9, 0.4, 0.6] + [0.1] * 8

    curve = [row for row in evaluate.roc_curves(labels, probabilities) if row["digit"] == 0]

    assert len(curve) == 100
    assert curve[0]["fpr"] == 0
    assert curve[-1]["fpr"] == 1
    for row in curve:
        assert row["tpr"] == (0.5 if row["fpr"] < 1 / 9 else 1)  # the second zero costs one of nine
        assert row["auc"] == pytest.approx(17 / 18)  # pairs of a zero and another, rightly ordered


def test_the_macro_auc_is_the_mean_of_the_curves():
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 10
    probabilities = rng.dirichlet(np.ones(10), 300).astype(np.float32)

    results = evaluate.evaluate(labels, probabilities, bins=10)

    by_digit = {row["digit"]: row["auc"] for row in results["roc"]}
    assert list(by_digit) == list(range(10))
    assert results["metrics"]["macro_roc_auc"] == pytest.approx(np.mean(list(by_digit.values())))
    for digit, auc in by_digit.items():
        assert auc == roc_auc_score(labels == digit, probabilities[:, digit])


def test_a_digit_that_is_never_predicted_has_precision_0():
    results = evaluate.evaluate(np.arange(10), probabilities_of([0] * 10), bins=10)

    assert results["per_class"][5]["precision"] == 0
    assert results["metrics"]["macro_precision"] == pytest.approx(0.01)


@pytest.fixture(scope="module")
def run_evaluate(prepared, trained, tiny_yaml):
    """Call the stage on the trained model, with some paths replaced; return the folder."""

    def call(folder, **paths):
        paths = {
            "params": tiny_yaml,
            "test": prepared / "test.npz",
            "model": trained / "cnn.keras",
            "history": trained / "training.csv",
            "predictions": folder / "predictions.npz",
            "reports": folder / "reports",
        } | paths
        evaluate.main([f"--{name}={path}" for name, path in paths.items()])
        return folder

    return call


@pytest.fixture(scope="module")
def evaluated(run_evaluate, tmp_path_factory):
    """The folder into which the stage wrote."""
    return run_evaluate(tmp_path_factory.mktemp("evaluated"))


def test_the_predictions_are_those_of_the_model(evaluated, prepared, trained, tf):
    images, labels = load(prepared / "test.npz")

    with np.load(evaluated / "predictions.npz") as arrays:
        assert sorted(arrays) == ["labels", "probabilities"]
        np.testing.assert_array_equal(arrays["labels"], labels)
        probabilities = arrays["probabilities"]

    assert (probabilities.dtype, probabilities.shape) == (np.float32, (200, 10))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    expected = np.asarray(model.load(trained / "cnn.keras")(images))
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_metrics_json_is_flat_and_of_the_documented_keys(evaluated, prepared):
    metrics = json.loads((evaluated / "reports" / "metrics.json").read_text())
    with np.load(evaluated / "predictions.npz") as arrays:
        right = arrays["probabilities"].argmax(axis=1) == arrays["labels"]

    assert list(metrics) == METRICS
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert metrics["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert metrics["errors"] == (~right).sum()
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]


def test_per_class_json_has_the_numbers_of_per_class_csv(evaluated):
    by_digit = json.loads((evaluated / "reports" / "per_class.json").read_text())
    with open(evaluated / "reports" / "per_class.csv", newline="") as stream:
        rows = {row.pop("digit"): row for row in csv.DictReader(stream)}

    assert list(by_digit) == [str(digit) for digit in range(10)]
    assert {
        digit: {key: float(value) for key, value in row.items()} for digit, row in rows.items()
    } == by_digit


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_a_csv_of_numbers(evaluated, table):
    content = (evaluated / "reports" / f"{table}.csv").read_bytes()
    frame = pd.read_csv(evaluated / "reports" / f"{table}.csv")

    assert list(frame) == TABLES[table]
    assert frame.notna().all().all()
    assert all(kind.kind in "if" for kind in frame.dtypes)
    assert b"\r" not in content
    assert content.endswith(b"\n")


def test_the_tables_agree_with_each_other(evaluated):
    frames = {name: pd.read_csv(evaluated / "reports" / f"{name}.csv") for name in TABLES}
    metrics = json.loads((evaluated / "reports" / "metrics.json").read_text())
    confusion, per_class = frames["confusion"], frames["per_class"]
    diagonal = confusion[confusion["actual"] == confusion["predicted"]]

    assert confusion["count"].sum() == frames["reliability"]["count"].sum() == 200
    assert 200 - diagonal["count"].sum() == metrics["errors"]
    assert diagonal["share"].tolist() == per_class["recall"].tolist()
    assert per_class["roc_auc"].mean() == pytest.approx(metrics["macro_roc_auc"], abs=2e-6)


def test_the_reports_are_those_that_dvc_yaml_names(evaluated, pytestconfig):
    stage = yaml.safe_load((pytestconfig.rootpath / "dvc.yaml").read_text())["stages"]["evaluate"]
    named = [next(iter(entry)) for entry in stage["metrics"] + stage["plots"]]

    written = [f"reports/{path.name}" for path in (evaluated / "reports").iterdir()]

    assert sorted(written) == sorted(named)


def test_the_same_model_gives_the_same_bytes(evaluated, run_evaluate, tmp_path):
    again = run_evaluate(tmp_path)

    for path in [evaluated / "predictions.npz", *(evaluated / "reports").iterdir()]:
        other = again / path.relative_to(evaluated)
        assert other.read_bytes() == path.read_bytes(), path.name


def test_a_missing_digit_is_refused(run_evaluate, prepared, tmp_path, refusal):
    images, labels = load(prepared / "test.npz")
    kept = ~np.isin(labels, [3, 8])
    path = tmp_path / "test.npz"
    write_arrays(path, compressed=False, images=images[kept], labels=labels[kept])

    message = refusal(run_evaluate, tmp_path, test=path)

    assert message == f"{path}: lacks the digits [3, 8]; all ten are needed"


def test_a_model_that_gives_no_finite_numbers_is_refused(
    run_evaluate, trained, tmp_path, refusal, tf
):
    network = model.load(trained / "cnn.keras")
    network.set_weights([np.full_like(weight, np.nan) for weight in network.get_weights()])
    path = tmp_path / "cnn.keras"
    model.save(network, path)

    message = refusal(run_evaluate, tmp_path, model=path)

    assert message == f"{path}: gives probabilities that are not finite; train it anew"
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("name", ["test", "model", "history"])
def test_a_missing_input_is_named(run_evaluate, tmp_path, refusal, name):
    path = tmp_path / "missing"

    assert refusal(run_evaluate, tmp_path, **{name: path}).startswith(f"{path}: cannot be read")
