"""Evaluate the model on the test images: metrics, the data of the plots, and the pictures.

    python -m stages.evaluate --test data/prepared/test.npz --model models/cnn.keras \
        --history reports/training.csv --predictions data/predictions.npz --reports reports

Reads the test images and labels, the model and its learning curves. Writes

- predictions.npz: `probabilities` float32 (n, 10), rows sum to 1, and `labels` int64 (n,);
- into the reports folder metrics.json (headline numbers), per_class.json, four CSV files for
  `dvc plots` (confusion, roc, per_class, reliability) and seven pictures.

No time and no duration is written: the same model gives the same bytes.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages import dataset, runtime
from stages.dataset import DIGITS
from stages.integrity import check_recorded, replacing
from stages.params import Section, UserError, load, run

PREDICTION_BATCH = 500  # images; larger ones are no faster and need more memory
THREADS = 2  # the probabilities are the same to the bit with 1, 2 and 4
ROC_GRID = np.concatenate([[0.0], np.logspace(-4, 0, 99)])  # false positive rates kept of a curve


class EvaluateParams(Section):
    """Section `evaluate` of params.yaml."""

    calibration_bins: int = Field(ge=2, le=100)
    samples: int = Field(ge=5, le=50)
    mistakes: int = Field(ge=6, le=60)


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927), as SciPy computes it."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int
) -> list[dict[str, float]]:
    """Return one row a bin of equal width that holds an image: count, mean confidence, accuracy.

    Parameters
    ----------
    confidence : (n,), probability of the predicted digit, in [0, 1].
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
    return rows


def calibration_error(rows: list[dict[str, float]]) -> float:
    """Return the expected calibration error of `reliability` rows (Guo et al. 2017, equation 3)."""
    n = sum(row["count"] for row in rows)
    return sum(row["count"] / n * abs(row["accuracy"] - row["confidence"]) for row in rows)


def roc_curves(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> list[dict[str, float]]:
    """Return each digit's ROC against the rest on ROC_GRID: digit, auc, fpr, tpr.

    The exact curve is a staircase; its value at a grid point is the highest true positive rate
    reached without a larger false positive rate.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    rows = []
    for digit in range(DIGITS):
        actual, score = labels == digit, probabilities[:, digit]
        fpr, tpr, _ = roc_curve(actual, score, drop_intermediate=False)
        auc = roc_auc_score(actual, score)
        on_grid = tpr[np.searchsorted(fpr, ROC_GRID, side="right") - 1]
        rows += [
            {"digit": digit, "auc": auc, "fpr": x, "tpr": y}
            for x, y in zip(ROC_GRID, on_grid, strict=True)
        ]
    return rows


def evaluate(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], bins: int
) -> dict[str, object]:
    """Return {"metrics", "per_class", "confusion", "roc", "reliability"} of n predictions.

    Parameters
    ----------
    labels : (n,), 0-9, every digit at least once.
    probabilities : (n, 10), rows sum to 1.
    bins : of confidence, for reliability and the expected calibration error.
    """
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        log_loss,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    digits = list(range(DIGITS))
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    n_right = int(right.sum())
    low, high = wilson_interval(n_right, len(labels))
    # float32 rows sum to 1 within 1e-6; scikit-learn wants it closer.
    shares = probabilities.astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    calibration = reliability(shares.max(axis=1), right, bins)
    confusion = confusion_matrix(labels, predicted, labels=digits)
    scores = precision_recall_fscore_support(labels, predicted, labels=digits, zero_division=0)
    precision, recall, f1, support = scores
    roc = roc_curves(labels, probabilities)
    auc = {row["digit"]: row["auc"] for row in roc}
    return {
        "metrics": {
            "accuracy": accuracy_score(labels, predicted),
            "accuracy_low": low,
            "accuracy_high": high,
            "errors": len(labels) - n_right,
            "log_loss": log_loss(labels, shares, labels=digits),
            "macro_precision": precision.mean(),
            "macro_recall": recall.mean(),
            "macro_f1": f1.mean(),
            "macro_roc_auc": roc_auc_score(
                labels, shares, multi_class="ovr", average="macro", labels=digits
            ),
            "calibration_error": calibration_error(calibration),
        },
        "per_class": [
            {
                "digit": digit,
                "precision": precision[digit],
                "recall": recall[digit],
                "f1": f1[digit],
                "roc_auc": auc[digit],
                "support": int(support[digit]),
            }
            for digit in digits
        ],
        "confusion": [
            {
                "actual": actual,
                "predicted": guess,
                "count": int(confusion[actual, guess]),
                "share": confusion[actual, guess] / support[actual],
            }
            for actual in digits
            for guess in digits
        ],
        "roc": roc,
        "reliability": calibration,
    }


def _rounded(row: dict[str, object]) -> dict[str, object]:
    """Return `row` with its fractions to six decimals, about what 10,000 images can tell."""
    return {
        key: value if isinstance(value, int) else round(float(value), 6)
        for key, value in row.items()
    }


def write_results(results: dict[str, object], reports: Path) -> None:
    """Write metrics.json, per_class.json and a CSV for each table into `reports`."""
    import pandas as pd

    def write(name: str, text: str) -> None:
        with replacing(reports / name) as path:
            path.write_text(text, encoding="utf-8", newline="\n")

    write("metrics.json", json.dumps(_rounded(results["metrics"]), indent=2) + "\n")
    by_digit = {str(row["digit"]): _rounded(row) for row in results["per_class"]}
    for row in by_digit.values():
        del row["digit"]
    write("per_class.json", json.dumps(by_digit, indent=2) + "\n")
    for table in ("per_class", "confusion", "roc", "reliability"):
        frame = pd.DataFrame([_rounded(row) for row in results[table]])
        write(f"{table}.csv", frame.to_csv(index=False, lineterminator="\n"))


def predict(test: Path, path: Path) -> NDArray[np.float32]:
    """Return the probabilities, (n, 10), that the model in a file gives to n test images.

    Raises
    ------
    UserError
        A file is not what it should be, or the probabilities are not finite.
    """
    from stages import model

    runtime.start_tensorflow(seed=0, threads=THREADS)
    network = model.load(path)
    images, _ = dataset.load(test)
    probabilities = network.predict(images, batch_size=PREDICTION_BATCH, verbose=0)
    if not np.isfinite(probabilities).all():
        raise UserError(f"{path}: gives probabilities that are not finite; train it anew")
    return probabilities


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--test", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--model", type=Path, required=True, metavar="KERAS", help="read")
    parser.add_argument("--history", type=Path, required=True, metavar="CSV", help="read")
    parser.add_argument("--predictions", type=Path, required=True, metavar="NPZ", help="written")
    parser.add_argument("--reports", type=Path, required=True, metavar="DIR", help="written into")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "evaluate", EvaluateParams)
    images, labels = dataset.load(arguments.test)
    absent = set(range(DIGITS)) - set(labels.tolist())
    if absent:
        raise UserError(f"{arguments.test}: lacks the digits {sorted(absent)}; all ten are needed")
    check_recorded(arguments.history)

    # TensorFlow, and all that judges and draws, take two to three seconds each to import: side by
    # side. Not forked, since a fork copies locks, but not the threads that hold them.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, runtime.follow_parent) as pool:
        prediction = pool.submit(predict, arguments.test, arguments.model)
        import sklearn.metrics  # noqa: F401, for `evaluate`

        from stages import figures

        probabilities = prediction.result()
    results = evaluate(labels, probabilities, params.calibration_bins)
    arguments.reports.mkdir(parents=True, exist_ok=True)
    dataset.write_arrays(
        arguments.predictions, compressed=True, probabilities=probabilities, labels=labels
    )
    write_results(results, arguments.reports)
    figures.draw_all(
        arguments.reports,
        arguments.history,
        images,
        labels,
        probabilities,
        results,
        params.samples,
        params.mistakes,
    )
    metrics = results["metrics"]
    print(
        f"test accuracy {metrics['accuracy']:.4f} (95 % interval {metrics['accuracy_low']:.4f} to "
        f"{metrics['accuracy_high']:.4f}), {metrics['errors']} of {len(labels):,} images wrong"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
