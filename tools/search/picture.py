"""Draw a search: its trials in their order, and which parameters mattered."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cnn.base.files import atomic_write
from cnn.results.figures import PALETTE, PERCENT, set_style
from tools.search.study import Trial
from tools.search.trainers import DONE, STOPPED

WORST = 0.3  # share of the finished trials that may lie below the picture, at its edge


def draw_trials(trials: list[Trial], ax: Axes) -> Axes:
    """Draw the validation accuracy of each trial, and the best one so far."""
    blue, orange, *_ = sns.color_palette(PALETTE)
    done = [trial for trial in trials if trial.outcome.state == DONE]
    stopped = [trial for trial in trials if trial.outcome.state == STOPPED]
    lowest = np.quantile([trial.accuracy for trial in done], WORST / 2) if done else 0
    top = max((trial.accuracy for trial in done), default=1)
    bottom = lowest - 0.5 * max(top - lowest, 1e-4)

    def dots(some: list[Trial], **how: object) -> None:
        heights = [max(trial.accuracy, bottom) for trial in some]
        ax.scatter([trial.number for trial in some], heights, s=32, zorder=3, clip_on=False, **how)

    dots(done, color=blue, label="trained to the end")
    dots(stopped, facecolor="white", edgecolor=blue, label="stopped early")
    if done:
        best = np.maximum.accumulate([trial.accuracy for trial in done])
        numbers = [trial.number for trial in done]
        ax.step(numbers, best, where="post", color=orange, label="best so far")
    ax.set(xlabel="trial", title="Accuracy on validation images", ylim=(bottom, None))
    ax.yaxis.set_major_formatter(PERCENT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right", fontsize=9)
    return ax


def draw_importances(importances: dict[str, float], ax: Axes) -> Axes:
    """Draw each parameter's share of the variance of the accuracy."""
    names = list(importances)[::-1]
    ax.barh(names, [importances[name] for name in names], color=sns.color_palette(PALETTE)[0])
    ax.set(title="What the differences come from", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PERCENT)
    ax.grid(axis="y", visible=False)
    return ax


def save(trials: list[Trial], importances: dict[str, float], path: Path) -> None:
    """Draw both into a PNG 1,000 pixels wide."""
    set_style()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(3, 2))
    draw_trials(trials, axes[0])
    draw_importances(importances, axes[1])
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    plt.close(figure)
