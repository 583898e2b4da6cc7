"""What is computed from predictions: metrics with their uncertainty, and the tables of the plots.

A metric is a line of `headlines` or of `scores`; a number per class a line of `per_class`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnn.results.intervals import mean_share, wilson_interval

ROC_GRID = np.concatenate(
    [[0.0], np.logspace(-4, 0, 99)]
)  # false positive rates at which a curve is kept
ROC_CURVES = 10  # classes whose curves are kept: the weakest


class Evaluation(NamedTuple):
    """What was found of a model.

    headlines : the metrics that `dvc metrics` shows; scores : further ones.
    tables : {"per_class", "confusion", "roc", "reliability"}, as the functions below return them;
        evaluate adds "suspects".
    """

    headlines: dict[str, float]
    scores: dict[str, float]
    tables: dict[str, pd.DataFrame]


def normalized(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the rows, (n, k), as float64 that sum to 1 closer than float32: for scikit-learn."""
    shares = probabilities.astype(np.float64)
    return shares / shares.sum(axis=1, keepdims=True)


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int
) -> pd.DataFrame:
    """Return one row per bin of equal width that holds an image: count, confidence, accuracy.

    Parameters
    ----------
    confidence : (n,), probability of the predicted class, in [0, 1].
    right : (n,), whether it was the actual one.
    """
    # Bins are open below and closed above, as in Guo et al. 2017, so 1.0 falls into the last.
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for index in np.unique(number):
        inside = number == index
        low, high = wilson_interval(int(right[inside].sum()), int(inside.sum()))
        rows.append(
            {
                "bin_low": index / bins,
                "bin_high": (index + 1) / bins,
                "count": int(inside.sum()),
                "confidence": confidence[inside].mean(),
                "accuracy": right[inside].mean(),
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return pd.DataFrame(rows)


def calibration_error(table: pd.DataFrame) -> float:
    """Return the expected calibration error of a `reliability` (Guo et al. 2017, equation 3)."""
    weight = table["count"] / table["count"].sum()
    return float((weight * (table["accuracy"] - table["confidence"]).abs()).sum())


def confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: list[str]
) -> pd.DataFrame:
    """Return one row per pair: actual, predicted, count, share of the actual class's images."""
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(labels, predicted, labels=range(len(classes)))
    return pd.DataFrame(
        {
            "actual": np.repeat(classes, len(classes)),
            "predicted": np.tile(classes, len(classes)),
            "count": matrix.ravel(),
            "share": (matrix / matrix.sum(axis=1, keepdims=True)).ravel(),
        }
    )


def per_class(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], classes: list[str]
) -> pd.DataFrame:
    """Return one row per class: precision, recall, F1, AUC against the rest, number of images."""
    from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

    numbers = range(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=numbers, zero_division=0
    )
    auc = [roc_auc_score(labels == label, probabilities[:, label]) for label in numbers]
    return pd.DataFrame(
        {
            "class": classes,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "roc_auc": auc,
            "support": support,
        }
    )


def roc_curves(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], table: pd.DataFrame
) -> pd.DataFrame:
    """Return the ROC curves, each class against the rest, on ROC_GRID: class, auc, fpr, tpr.

    The exact curve is a staircase; its value at a grid point is the highest true positive rate
    reached without a larger false positive rate. Of more than ROC_CURVES classes the weakest are
    kept, in the order of the classes. `table` is what `per_class` returns.
    """
    from sklearn.metrics import roc_curve

    weakest = table["roc_auc"].sort_values(kind="stable").index[:ROC_CURVES]
    curves = []
    for label in sorted(weakest):
        fpr, tpr, _ = roc_curve(labels == label, probabilities[:, label], drop_intermediate=False)
        on_grid = tpr[np.searchsorted(fpr, ROC_GRID, side="right") - 1]
        name, auc = table.loc[label, ["class", "roc_auc"]]
        curves.append(pd.DataFrame({"class": name, "auc": auc, "fpr": ROC_GRID, "tpr": on_grid}))
    return pd.concat(curves, ignore_index=True)


def headlines(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Return the few metrics that `dvc metrics` shows: accuracies with intervals, log loss.

    The balanced accuracy is the mean of the classes' recalls: a rare class counts as much as a
    frequent one.
    """
    from sklearn.metrics import log_loss

    is_right = probabilities.argmax(axis=1) == labels
    right = int(is_right.sum())
    low, high = wilson_interval(right, len(labels))
    counts = np.bincount(labels[is_right], minlength=probabilities.shape[1])
    balanced, balanced_low, balanced_high = mean_share(
        counts.tolist(), np.bincount(labels).tolist()
    )
    return {
        "accuracy": right / len(labels),
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": balanced,
        "balanced_low": balanced_low,
        "balanced_high": balanced_high,
        "errors": len(labels) - right,
        "log_loss": log_loss(
            labels, normalized(probabilities), labels=range(probabilities.shape[1])
        ),
    }


def scores(by_class: pd.DataFrame, calibration: pd.DataFrame) -> dict[str, float]:
    """Return further metrics, out of the tables of `per_class` and `reliability`."""
    return {
        "macro_precision": by_class["precision"].mean(),
        "macro_recall": by_class["recall"].mean(),
        "macro_f1": by_class["f1"].mean(),
        "macro_roc_auc": by_class["roc_auc"].mean(),
        "calibration_error": calibration_error(calibration),
    }


def evaluate(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], classes: list[str], bins: int
) -> Evaluation:
    """Compute all metrics and tables.

    Parameters
    ----------
    labels : int64 (n,), index into classes, every class at least once.
    probabilities : float32 (n, k), rows sum to 1.
    classes : k names.
    bins : of confidence, for reliability and the expected calibration error.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = normalized(probabilities).max(axis=1)
    by_class = per_class(labels, probabilities, classes)
    calibration = reliability(confidence, predicted == labels, bins)
    tables = {
        "per_class": by_class,
        "confusion": confusion(labels, predicted, classes),
        "roc": roc_curves(labels, probabilities, by_class),
        "reliability": calibration,
    }
    return Evaluation(headlines(labels, probabilities), scores(by_class, calibration), tables)
