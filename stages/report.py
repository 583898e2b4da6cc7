"""Write what people read first: every prediction as a row, and the model card.

    python -m stages.report --predictions data/predictions.npz --metrics reports/metrics.json \
        --per-class reports/per_class.json --confusion reports/confusion.csv \
        --environment reports/environment.json --rows reports/predictions.csv \
        --card reports/README.md

Reads the probabilities, float32 (n, 10), with the labels, int64 (n,), and what evaluate and train
wrote. Writes one row an image (index, actual, predicted, probability of the predicted digit) and
reports/README.md, which a Git host shows with the pictures when the folder is opened.

A stage of its own, since DVC's run cache passes over a stage that has files in Git which are
neither metrics nor plots. It runs for a second and without TensorFlow.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.dataset import read_arrays
from stages.integrity import check_recorded, replacing
from stages.params import run

PICTURES = {
    "learning_curves": "Learning curves. Training is the mean over an epoch while the weights "
    "still change, validation is measured after it: early on, validation may look better.",
    "samples": "The first test images, with what was read and what they are.",
    "report": "Precision: of the images read as a digit, the share that is it. Recall: of a "
    "digit's images, the share that was read as it. F1: their harmonic mean. The dark cells are "
    "the weak ones; mind the scale.",
    "confusion": "Rows are what the image shows, columns what was read. The colour is the share of "
    "the row, stretched so that one mistake in a thousand shows.",
    "roc": "Each digit against the rest, in the corner where the curves differ: how many of its "
    "images are found (upwards) at the price of how many others taken for it (to the right).",
    "mistakes": "The mistakes of which the model was most sure.",
    "reliability": "Of the images read with a confidence, how many are right: on the diagonal the "
    "confidence can be taken at its word. Below, how many images that is.",
}


def prediction_rows(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> list[list[object]]:
    """Return [index, actual, predicted, probability of the predicted digit] of each image."""
    predicted, highest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    return [
        [index, int(labels[index]), int(predicted[index]), f"{highest[index]:.6f}"]
        for index in range(len(labels))
    ]


def worst_pairs(confusion: list[dict[str, str]], most: int = 5) -> list[tuple[int, int, int]]:
    """Return (actual, predicted, count) of the pairs most often confused, the worst first."""
    pairs = [
        (int(row["actual"]), int(row["predicted"]), int(row["count"]))
        for row in confusion
        if row["actual"] != row["predicted"] and int(row["count"])
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair))[:most]


def model_card(
    metrics: dict[str, float],
    per_class: dict[str, dict[str, float]],
    confusion: list[dict[str, str]],
    rows: list[list[object]],
    environment: dict[str, str],
) -> str:
    """Return the model card (Mitchell et al. 2019, Model Cards for Model Reporting) as Markdown."""
    n = len(rows)
    weakest = min(per_class, key=lambda digit: per_class[digit]["f1"])
    pairs = "\n".join(
        f"| {actual} | {predicted} | {count} | {count / per_class[str(actual)]['support']:.2%} |"
        for actual, predicted, count in worst_pairs(confusion)
    )
    wrong = sorted(
        (row for row in rows if row[1] != row[2]), key=lambda row: (-float(row[3]), row[0])
    )
    mistakes = "\n".join(
        f"| {index} | {actual} | {predicted} | {float(probability):.1%} |"
        for index, actual, predicted, probability in wrong[:5]
    )
    pictures = "\n\n".join(
        f"![{name.replace('_', ' ')}]({name}.png)\n\n{text}" for name, text in PICTURES.items()
    )
    return f"""# A CNN that reads handwritten digits

Written by `dvc repro`; do not edit. The figures are those of the committed model.

| on {n:,} test images | value |
| --- | --- |
| accuracy | {metrics["accuracy"]:.2%}, 95 % interval {metrics["accuracy_low"]:.2%} to {
        metrics["accuracy_high"]:.2%} (Wilson) |
| images read wrongly | {metrics["errors"]} |
| log loss | {metrics["log_loss"]:.4f} nats |
| F1, mean of the digits | {metrics["macro_f1"]:.4f} |
| ROC AUC, mean of each digit against the rest | {metrics["macro_roc_auc"]:.5f} |
| expected calibration error | {metrics["calibration_error"]:.4f} |

The interval says what another {n:,} images of the same kind could give. What another seed gives is
in the [README](../README.md#results).

**Model.** Two convolutions with max pooling, a dense layer and a softmax over ten digits, trained
from scratch with Keras {environment["keras"]} and TensorFlow {environment["tensorflow"]} in
{environment["precision"]}. Every hyperparameter is in [params.yaml](../params.yaml).

**Data.** MNIST (LeCun, Cortes and Burges): 28 x 28 grey images of digits that employees of the US
Census Bureau and high school students wrote, centred by mass. Trained on the first part of its
60,000 training images, the last tenth kept for validation; tested on its own 10,000 test images.
Licence of the data: CC BY-SA 3.0.

**Intended use.** Learning, teaching and comparing ways of training. A single, upright, centred
digit as MNIST has it, light on black.

**Limits.** It knows nothing but these ten: a letter, a scribble or two digits at once are read as
some digit too. Photographs must first be brought into MNIST's form. The writers were few and from
one country, so a 1 with a long upstroke or a crossed 7 is rarer here than elsewhere. Not for
decisions that matter to someone without a person who looks.

## Where it fails

The weakest digit is **{weakest}** (F1 {per_class[weakest]["f1"]:.4f}). Most often confused:

| actual | read as | images | of that digit |
| ---: | ---: | ---: | ---: |
{pairs}

Most confident mistakes (all rows are in [predictions.csv](predictions.csv)):

| test image | actual | read as | confidence |
| ---: | ---: | ---: | ---: |
{mistakes}

## Pictures

{pictures}
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--metrics", type=Path, required=True, metavar="JSON", help="read")
    parser.add_argument("--per-class", type=Path, required=True, metavar="JSON", help="read")
    parser.add_argument("--confusion", type=Path, required=True, metavar="CSV", help="read")
    parser.add_argument("--environment", type=Path, required=True, metavar="JSON", help="read")
    parser.add_argument("--rows", type=Path, required=True, metavar="CSV", help="written")
    parser.add_argument("--card", type=Path, required=True, metavar="MD", help="written")
    arguments = parser.parse_args(argv)
    probabilities, labels = read_arrays(arguments.predictions, ("probabilities", "labels"))
    texts = {}
    for name in ("metrics", "per_class", "confusion", "environment"):
        path = getattr(arguments, name)
        check_recorded(path)
        texts[name] = path.read_text(encoding="utf-8")

    rows = prediction_rows(labels, probabilities)
    with replacing(arguments.rows) as path, open(path, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["index", "actual", "predicted", "probability"])
        writer.writerows(rows)
    card = model_card(
        metrics=json.loads(texts["metrics"]),
        per_class=json.loads(texts["per_class"]),
        confusion=list(csv.DictReader(texts["confusion"].splitlines())),
        rows=rows,
        environment=json.loads(texts["environment"]),
    )
    with replacing(arguments.card) as path:
        path.write_text(card, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    raise SystemExit(run(main))
