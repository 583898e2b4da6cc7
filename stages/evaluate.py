"""Evaluate the model on the test images: metrics, the data of the plots, and the pictures.

    python -m stages.evaluate --test data/prepared/test.npz \
        --validation data/prepared/validation.npz --model models/cnn.keras \
        --history reports/train/training.csv --predictions data/predictions.npz \
        --reports reports/evaluate

Reads the test and validation images with labels and classes, the model and its learning curves. All
numbers are those of the test images; which labels are in doubt is said of both. Writes

- predictions.npz: `probabilities` float32 (n, k), rows sum to 1, `labels` int64 (n,), `classes`
  str (k,) and `images` str (n,), a hash of each image;
- into the reports folder metrics.json (headline numbers), scores.json (further ones),
  per_class.json, five CSV files for `dvc plots` (confusion, roc, per_class, reliability, suspects)
  and pictures/.

No time and no duration is written: the same model gives the same bytes.
"""

import argparse
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cnn import kernels
from cnn.base.errors import UserError
from cnn.base.files import read_text
from cnn.base.npz import write_arrays
from cnn.base.params import Section, load
from cnn.base.program import run
from cnn.data import sets
from cnn.model import archive, keras_runtime


class EvaluateParams(Section):
    """Section `evaluate` of params.yaml."""

    calibration_bins: int = Field(ge=2, le=100)
    samples: int = Field(ge=5, le=50)
    mistakes: int = Field(ge=6, le=60)
    suspects: int = Field(ge=6, le=60)


class Engine(Section, extra="ignore"):
    """Of section `train`: which engine has trained the model."""

    engine: Literal["exact", "keras"]


def predict(given: sets.Data, path: Path, engine: str) -> NDArray[np.float32]:
    """Return the probabilities, float32 (n, k), that the model in a file gives to n images.

    engine : which one trained it. What `keras` trained may have any layers: Keras loads it.

    Raises
    ------
    UserError
        The file is not a model of such images, or gives no probabilities.
    """
    classes = len(given.classes)
    if engine == "exact":
        model = archive.read(path, given.images.shape[1:], classes)
        probabilities = kernels.probabilities(model.network, model.weights, given.images)
    else:
        probabilities = keras_runtime.predict(path, given.images)
    if probabilities.shape != (len(given.images), classes) or not archive.are_probabilities(
        probabilities
    ):
        raise UserError(
            f"{path}: gives values that are no probabilities; run 'dvc repro --force train'"
        )
    return probabilities


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    for name in ("test", "validation"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--model", type=Path, required=True, metavar="KERAS", help="read")
    parser.add_argument("--history", type=Path, required=True, metavar="CSV", help="read")
    parser.add_argument("--predictions", type=Path, required=True, metavar="NPZ", help="written")
    parser.add_argument("--reports", type=Path, required=True, metavar="DIR", help="written into")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "evaluate", EvaluateParams)
    engine = load(arguments.params, "train", Engine).engine
    given = sets.load(arguments.test)
    labels, classes = given.labels, given.classes.tolist()
    absent = np.setdiff1d(np.arange(len(classes)), labels)
    if len(absent):
        raise UserError(
            f"{arguments.test}: has no image of class {classes[absent[0]]}; run 'dvc repro'"
        )
    validation = sets.load(arguments.validation)
    sets.check_alike(arguments.test, given, arguments.validation, validation)

    read_text(arguments.history)  # refused, if it is missing, before anything heavy is imported
    probabilities = predict(given, arguments.model, engine)
    from cnn.results import gallery, metrics, tables
    from cnn.results.intervals import small_classes
    from cnn.results.suspects import Split, table

    history = tables.read_history(arguments.history)
    found = metrics.evaluate(labels, probabilities, classes, params.calibration_bins)
    fingerprints = sets.fingerprints(given.images)
    suspects = table(
        {
            "test": Split(labels, probabilities, fingerprints),
            "validation": Split(
                validation.labels,
                predict(validation, arguments.model, engine),
                sets.fingerprints(validation.images),
            ),
        },
        classes,
    )
    found.scores["labels_in_doubt"] = len(suspects)
    found.tables["suspects"] = suspects = suspects[: params.suspects]
    images = {"test": given.images, "validation": validation.images}
    doubted = [
        images[split][index]
        for split, index in zip(suspects["split"], suspects["index"], strict=True)
    ]
    write_arrays(
        arguments.predictions,
        probabilities=probabilities,
        labels=labels,
        classes=given.classes,
        images=np.array(fingerprints),
    )
    tables.write(*found, arguments.reports)
    results = gallery.Results(
        given.images,
        labels,
        probabilities.argmax(axis=1),
        probabilities.max(axis=1),
        classes,
        history,
        found.tables,
        doubted,
        params.samples,
        params.mistakes,
    )
    if note := small_classes(dict(zip(classes, np.bincount(labels).tolist(), strict=True))):
        print(f"note: {arguments.test}: {note}", file=sys.stderr)
    if note := gallery.draw_all(arguments.reports / "pictures", results):
        print(f"note: {note}; then run 'dvc repro --force evaluate'", file=sys.stderr)
    print(
        f"test accuracy {found.headlines['accuracy']:.4f} (95 % interval "
        f"{found.headlines['accuracy_low']:.4f} to {found.headlines['accuracy_high']:.4f}), "
        f"balanced {found.headlines['balanced_accuracy']:.4f}, "
        f"{found.headlines['errors']} of {len(labels):,} images wrong"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
