"""Write what people read first: every prediction as a row, and the model card.

    python -m stages.report --predictions data/predictions.npz \
        --data reports/prepare/data.json --environment reports/train/environment.json \
        --metrics reports/evaluate/metrics.json --scores reports/evaluate/scores.json \
        --per-class reports/evaluate/per_class.json --pictures reports/evaluate/pictures \
        --rows reports/predictions.csv --card reports/README.md

Reads the probabilities, float32 (n, k), with labels, classes and fingerprints of the images, and
what the other stages wrote of data, environment and metrics. Writes one row per image (index,
fingerprint, actual, predicted, probability of the predicted class) and reports/README.md, which a
Git host shows with the pictures when the folder is opened.

A stage of its own, since DVC's run cache passes over a stage that has files in Git which are
neither metrics nor plots. It runs for a second and without TensorFlow.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.files import REPAIR, read_json, write_csv, write_text
from cnn.base.npz import read_arrays
from cnn.base.params import read_section
from cnn.base.program import run
from cnn.reporting.card import Row, model_card


def prediction_rows(
    images: list[str],
    classes: list[str],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
) -> list[Row]:
    """Return one row per image: index, image, actual, predicted, probability of the predicted.

    images : n fingerprints; classes : k names; labels : int64 (n,); probabilities : float32 (n, k).
    """
    predicted, highest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    return [
        {
            "index": index,
            "image": image,
            "actual": classes[labels[index]],
            "predicted": classes[predicted[index]],
            "probability": f"{highest[index]:.6f}",
        }
        for index, image in enumerate(images)
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--predictions", type=Path, required=True, metavar="NPZ", help="read")
    for name in ("data", "environment", "metrics", "scores", "per-class"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="JSON", help="read")
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="read")
    parser.add_argument("--rows", type=Path, required=True, metavar="CSV", help="written")
    parser.add_argument("--card", type=Path, required=True, metavar="MD", help="written")
    arguments = parser.parse_args(argv)
    probabilities, labels, classes, images = read_arrays(
        arguments.predictions, ("probabilities", "labels", "classes", "images")
    )
    rows = prediction_rows(images.tolist(), classes.tolist(), labels, probabilities)
    try:
        card = model_card(
            data=read_json(arguments.data),
            environment=read_json(arguments.environment),
            train=read_section(arguments.params, "train"),
            metrics=read_json(arguments.metrics),
            scores=read_json(arguments.scores),
            per_class=read_json(arguments.per_class),
            rows=rows,
            captions=read_json(arguments.pictures / "captions.json"),
            pictures=Path(os.path.relpath(arguments.pictures, arguments.card.parent)).as_posix(),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"what the other stages wrote lacks {error}; {REPAIR}") from None
    write_csv(arguments.rows, rows)
    write_text(arguments.card, card)


if __name__ == "__main__":
    raise SystemExit(run(main))
