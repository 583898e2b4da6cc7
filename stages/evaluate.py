"""Evaluate the model on the test images: metrics, the data of the plots, and the pictures.

    python -m stages.evaluate --test data/prepared/test.npz --model models/cnn.keras \
        --history reports/train/training.csv --predictions data/predictions.npz \
        --reports reports/evaluate

Reads the test images with labels and classes, the model and its learning curves. Writes

- predictions.npz: `probabilities` float32 (n, k), rows sum to 1, `labels` int64 (n,), `classes`
  str (k,) and `images` str (n,), a fingerprint of each image;
- into the reports folder metrics.json (headline numbers), scores.json (further ones),
  per_class.json, four CSV files for `dvc plots` (confusion, roc, per_class, reliability) and
  pictures/.

No time and no duration is written: the same model gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cnn import archive, data, kernels, runtime
from cnn.errors import UserError, run
from cnn.files import CURE, read_text, write_json, write_text
from cnn.npz import write_arrays
from cnn.params import Section, load

if TYPE_CHECKING:
    import pandas as pd


class EvaluateParams(Section):
    """Section `evaluate` of params.yaml."""

    calibration_bins: int = Field(ge=2, le=100)
    samples: int = Field(ge=5, le=50)
    mistakes: int = Field(ge=6, le=60)


class Engine(Section, extra="ignore"):
    """Of section `train`: which engine has trained the model."""

    engine: Literal["exact", "keras"]


def predict(given: data.Data, path: Path, engine: str) -> NDArray[np.float32]:
    """Return the probabilities, (n, k), that the model in a file gives to n images.

    engine : which trained it. What `keras` trained may have layers of any kind: Keras loads it.

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
        runtime.start_tensorflow()
        probabilities = archive.predict_with_keras(path, given.images)
    if probabilities.shape != (len(given.images), classes) or not archive.are_probabilities(
        probabilities
    ):
        raise UserError(
            f"{path}: gives values that are no probabilities; run 'dvc repro --force train'"
        )
    return probabilities


def read_history(path: Path) -> pd.DataFrame:
    """Return the learning curves, a row per epoch.

    Raises
    ------
    UserError
        The file is missing, or has another form than what train writes.
    """
    import pandas as pd

    text = read_text(path)
    wanted = {"epoch", "accuracy", "loss", "validation_accuracy", "validation_loss"}
    try:
        history = pd.read_csv(io.StringIO(text))
        numeric = all(kind.kind in "if" for kind in history.dtypes)
    except ValueError:
        history, numeric = pd.DataFrame(), False
    if not numeric or not len(history) or not wanted <= set(history):
        raise UserError(f"{path}: has no row of numbers per epoch; {CURE}")
    return history


def write_results(
    metrics: dict[str, float],
    scores: dict[str, float],
    tables: dict[str, pd.DataFrame],
    reports: Path,
) -> None:
    """Write metrics.json, scores.json, per_class.json and a CSV for each table into `reports`.

    Fractions have six decimals, about what 10,000 images can tell.
    """
    tables = {name: table.round(6) for name, table in tables.items()}
    for file, numbers in (("metrics.json", metrics), ("scores.json", scores)):
        rounded = {
            name: value if isinstance(value, int) else round(value, 6)
            for name, value in numbers.items()
        }
        write_json(reports / file, rounded)
    by_class = tables["per_class"].set_index("class")
    write_json(reports / "per_class.json", by_class.to_dict(orient="index"))
    for name, table in tables.items():
        write_text(reports / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


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
    engine = load(arguments.params, "train", Engine).engine
    given = images, labels, classes = data.load(arguments.test)
    absent = np.setdiff1d(np.arange(len(classes)), labels)
    if len(absent):
        raise UserError(
            f"{arguments.test}: has no image of class {classes[absent[0]]}; run 'dvc repro'"
        )

    read_text(arguments.history)  # refused, if it is missing, before anything heavy is imported
    probabilities = predict(given, arguments.model, engine)
    with runtime.uncollected():
        from cnn import gallery, statistics
    history = read_history(arguments.history)
    names = classes.tolist()
    metrics, scores, tables = statistics.evaluate(
        labels, probabilities, names, params.calibration_bins
    )
    write_arrays(
        arguments.predictions,
        probabilities=probabilities,
        labels=labels,
        classes=classes,
        images=np.array(data.fingerprints(images)),
    )
    write_results(metrics, scores, tables, arguments.reports)
    gallery.draw_all(
        arguments.reports / "pictures",
        gallery.Results(
            images,
            labels,
            probabilities.argmax(axis=1),
            probabilities.max(axis=1),
            names,
            history,
            tables,
            params.samples,
            params.mistakes,
        ),
    )
    print(
        f"test accuracy {metrics['accuracy']:.4f} (95 % interval {metrics['accuracy_low']:.4f} to "
        f"{metrics['accuracy_high']:.4f}), {metrics['errors']} of {len(labels):,} images wrong"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
