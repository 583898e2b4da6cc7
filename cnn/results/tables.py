"""The numbers in files: the learning curves as train wrote them, and what evaluate found."""

import io
from pathlib import Path

import pandas as pd

from cnn.base.errors import UserError
from cnn.base.files import REPAIR, read_text, write_json, write_text


def read_history(path: Path) -> pd.DataFrame:
    """Return the learning curves, one row per epoch.

    Raises
    ------
    UserError
        The file is missing, or has another form than what train writes.
    """
    text = read_text(path)
    columns = {"epoch", "accuracy", "loss", "validation_accuracy", "validation_loss"}
    try:
        history = pd.read_csv(io.StringIO(text))
        numeric = all(kind.kind in "if" for kind in history.dtypes)
    except ValueError:
        history, numeric = pd.DataFrame(), False
    if not numeric or not len(history) or not columns <= set(history):
        raise UserError(f"{path}: has no row of numbers per epoch; {REPAIR}")
    return history


def write(
    metrics: dict[str, float],
    scores: dict[str, float],
    tables: dict[str, pd.DataFrame],
    reports: Path,
) -> None:
    """Write metrics.json, scores.json, per_class.json and a CSV for each table into `reports`.

    Fractions have six decimals, about what 10,000 images can tell.
    """
    for file, numbers in (("metrics.json", metrics), ("scores.json", scores)):
        rounded = {
            name: value if isinstance(value, int) else round(value, 6)
            for name, value in numbers.items()
        }
        write_json(reports / file, rounded)
    tables = {name: table.round(6) for name, table in tables.items()}
    by_class = tables["per_class"].set_index("class")
    write_json(reports / "per_class.json", by_class.to_dict(orient="index"))
    for name, table in tables.items():
        write_text(reports / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
