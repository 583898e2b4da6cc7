"""Draw two sets of runs as dots side by side, with mean and interval: a strip plot."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cnn.base.errors import UserError
from cnn.base.files import atomic_write
from cnn.results.figures import PALETTE, PERCENT, set_style, short

TITLES = {  # one panel each
    "accuracy": "Test accuracy",
    "balanced_accuracy": "Balanced test accuracy: the mean of the classes' recalls",
    "log_loss": "Log loss, nats",
}
LANES = (-0.3, 0.12)  # where a set's dots lie, a lane per run from the least seed down
MEAN = 0.3  # where its mean lies, below them


def draw_runs(result: dict, metric: str, ax: Axes) -> Axes:
    """Draw `metric` of each run in `two_recipes.compare`'s result; lines join pairs, if any."""
    sides, dots = [result["a"], result["b"]], []
    for place, (side, color) in enumerate(zip(sides, sns.color_palette(PALETTE), strict=False)):
        values = [run[metric] for run in side["runs"]]
        lanes = place + (np.linspace(*LANES, len(values)) if len(values) > 1 else np.zeros(1))
        dots.append((values, lanes))
        ax.scatter(values, lanes, color=color, edgecolor="white", linewidth=0.5, s=45, zorder=3)
        found = side["metrics"][metric]
        if found["interval_95"]:
            low, high = found["interval_95"]
            ax.plot([low, high], [place + MEAN] * 2, color=color, linewidth=3, zorder=2)
            ax.plot(found["mean"], place + MEAN, "D", color=color, markersize=8, zorder=3)
    if result["test"] == "paired":
        (values_a, lanes_a), (values_b, lanes_b) = dots
        ax.plot([values_a, values_b], [lanes_a, lanes_b], color="#cccccc", linewidth=0.8, zorder=1)
    ax.set_yticks(
        range(2), [f"{short(side['revision'], 20)}\nn = {len(side['runs'])}" for side in sides]
    )
    ax.set(ylim=(1.55, -0.55), title=TITLES[metric])
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if metric.endswith("accuracy"):
        ax.xaxis.set_major_formatter(PERCENT)
    return ax


def save(result: dict, path: str | Path) -> None:
    """Draw accuracies and log loss of two sets into a PNG 900 pixels wide.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    set_style(result[letter]["revision"] for letter in "ab")
    metrics = [metric for metric in TITLES if metric in result["difference"]]
    figure, axes = plt.subplots(len(metrics), figsize=(9, 0.5 + 2.4 * len(metrics)), squeeze=False)
    for metric, ax in zip(metrics, axes[:, 0], strict=True):
        draw_runs(result, metric, ax)
    pairs = ", a line the same seed" if result["test"] == "paired" else ""
    figure.supxlabel(
        f"a dot is a run{pairs}; a diamond the mean, on its 95 % interval", fontsize=10
    )
    try:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        plt.close(figure)
