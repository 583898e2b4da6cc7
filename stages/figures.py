"""The pictures: each `draw_*` takes numbers and an Axes (or a Figure for a gallery) and returns it.

All computing is elsewhere; here is only what goes where. `draw_all` writes the seven PNGs.
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")  # as many decimals as it takes
DPI = 100  # 10 inches are 1000 pixels, a README's width
PALETTE = "colorblind"


def set_style() -> None:
    """Forget the user's matplotlibrc and style sheets: they must not change a picture."""
    matplotlib.use("Agg")
    matplotlib.rcdefaults()
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        font="DejaVu Sans",
        rc={
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "figure.dpi": DPI,
            "figure.constrained_layout.use": True,
            "savefig.dpi": DPI,
        },
    )


def draw_curve(history: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """Draw training and validation `metric` by epoch, each named at its line's end."""
    colors = sns.color_palette(PALETTE)
    ends = {
        "training\n(mean over the epoch)": (history[metric], colors[0], "o"),
        "validation\n(after the epoch)": (history[f"validation_{metric}"], colors[1], "s"),
    }
    for label, (values, color, marker) in ends.items():
        ax.plot(history["epoch"], values, color=color, marker=marker, label=label, linewidth=2)
    ax.set(title=metric.capitalize(), xlabel="epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if metric == "loss":
        ax.set_yscale("log")  # the last epochs differ by little beside the first
        ax.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("cross-entropy, nats")
    else:
        ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(frameon=False)
    return ax


def draw_images(
    images: NDArray[np.float32],
    captions: list[str],
    colors: list[str],
    figure: Figure,
    columns: int,
) -> Figure:
    """Draw images (n, 28, 28, 1), ink dark on paper, in rows of `columns`, a caption above each."""
    rows = -(-len(images) // columns) or 1
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, image, caption, color in zip(axes.flat, images, captions, colors, strict=False):
        ax.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(caption, fontsize=10, fontweight="normal", color=color, loc="center")
    return figure


def draw_report(per_class: pd.DataFrame, ax: Axes) -> Axes:
    """Draw precision, recall and F1 by digit as an annotated heatmap, dark where it is weak."""
    table = per_class.set_index("digit")[["precision", "recall", "f1"]].T
    table.index = ["precision", "recall", "F1"]
    sns.heatmap(
        table,
        ax=ax,
        annot=True,
        fmt=".3f",
        cmap="cividis",
        vmin=min(0.98, table.to_numpy().min()),
        vmax=1,
        linewidths=1,
        cbar_kws={"pad": 0.01},
    )
    ax.set(title="Precision, recall and F1 by digit", xlabel="digit")
    ax.tick_params(length=0, rotation=0)
    return ax


def draw_confusion(confusion: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the counts, coloured by their share of the row so that one mistake in 1,000 shows."""
    counts = confusion.pivot(index="actual", columns="predicted", values="count")
    shares = confusion.pivot(index="actual", columns="predicted", values="share")
    sns.heatmap(
        shares,
        ax=ax,
        annot=counts.map(lambda count: f"{count:,}" if count else ""),
        fmt="",
        norm=PowerNorm(0.25, 0, 1),
        cmap="Blues",
        square=True,
        linewidths=0.5,
        linecolor="#eeeeee",
        annot_kws={"fontsize": 11},
        cbar_kws={
            "label": "share of the row",
            "ticks": [0, 0.001, 0.01, 0.1, 1],
            "format": PERCENT,
            "shrink": 0.8,
        },
    )
    ax.set(
        title="Confusion matrix: images of each digit, by what was read",
        xlabel="predicted",
        ylabel="actual",
    )
    ax.tick_params(length=0, rotation=0)
    return ax


def draw_roc(roc: pd.DataFrame, ax: Axes) -> Axes:
    """Draw each digit's ROC against the rest, near the corner where the curves differ."""
    for (digit, auc), curve in roc.groupby(["digit", "auc"]):
        # A logarithmic axis has no zero: what has no false positives starts at its edge.
        fpr = curve["fpr"].clip(lower=1e-4)
        ax.step(
            fpr,
            curve["tpr"],
            where="post",
            linewidth=2,
            color=sns.color_palette(PALETTE)[digit],
            linestyle="-" if digit < 5 else "--",
            label=f"{digit}   AUC {auc:.5f}",
        )
    # The left end of a single curve may hang far below the rest.
    floor = roc.loc[roc["fpr"].between(1e-4, 1e-1), "tpr"].quantile(0.02)
    ax.set(
        title="ROC, each digit against the rest: the corner",
        xscale="log",
        xlim=(1e-4, 1e-1),
        ylim=(floor - 0.02 * (1 - floor) - 1e-4, 1 + 0.02 * (1 - floor)),
        xlabel="false positive rate (logarithmic, up to 10 %)",
        ylabel="true positive rate",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PERCENT)
    ax.legend(title="digit", frameon=False, loc="lower right", ncols=2)
    return ax


def draw_reliability(reliability: pd.DataFrame, axes: tuple[Axes, Axes]) -> tuple[Axes, Axes]:
    """Draw accuracy by confidence with 95 % intervals above the number of images in each bin."""
    upper, lower = axes
    color = sns.color_palette(PALETTE)[0]
    accuracy = reliability["accuracy"]
    # Rounding can put an end of the interval a hair inside the point.
    spread = [
        (accuracy - reliability["accuracy_low"]).clip(lower=0),
        (reliability["accuracy_high"] - accuracy).clip(lower=0),
    ]
    upper.plot([0, 1], [0, 1], color="#888888", linestyle=":", label="perfectly calibrated")
    upper.errorbar(
        reliability["confidence"],
        accuracy,
        yerr=spread,
        fmt="o-",
        color=color,
        capsize=3,
        label="test images, 95 % interval",
    )
    upper.set(
        title="Reliability: how often a confidence is right",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    upper.legend(frameon=False, loc="upper left")
    width = reliability["bin_high"] - reliability["bin_low"]
    bars = lower.bar(
        reliability["bin_low"],
        reliability["count"],
        width=width,
        align="edge",
        color=color,
        edgecolor="white",
    )
    lower.bar_label(bars, [f"{count:,}" for count in reliability["count"]], fontsize=8, padding=2)
    lower.set(
        yscale="log",
        ylim=(0.5, reliability["count"].max() * 6),
        ylabel="images",
        xlabel="confidence: probability of the predicted digit",
    )
    lower.grid(visible=False)
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PERCENT)
    return upper, lower


def draw_all(
    folder: Path,
    history: Path,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    results: dict,
    samples: int,
    mistakes: int,
) -> None:
    """Write the seven PNGs into `folder`; `results` are those of `stages.evaluate.evaluate`."""
    set_style()
    right_color, wrong_color = "black", "#b3431b"
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)

    def write(name: str, figure: Figure) -> None:
        # Without the entry that names matplotlib's version.
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        plt.close(figure)

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    curves = pd.read_csv(history)
    draw_curve(curves, "accuracy", axes[0])
    draw_curve(curves, "loss", axes[1])
    write("learning_curves", figure)

    columns = 5
    figure = plt.figure(figsize=(10, 2.3 * -(-samples // columns)))
    shown = slice(0, samples)
    draw_images(
        images[shown],
        [f"predicted {p}, true {a}" for p, a in zip(predicted[shown], labels[shown], strict=True)],
        [
            right_color if p == a else wrong_color
            for p, a in zip(predicted[shown], labels[shown], strict=True)
        ],
        figure,
        columns,
    )
    write("samples", figure)

    figure, ax = plt.subplots(figsize=(10, 2.6))
    draw_report(pd.DataFrame(results["per_class"]), ax)
    write("report", figure)

    figure, ax = plt.subplots(figsize=(10, 8))
    draw_confusion(pd.DataFrame(results["confusion"]), ax)
    write("confusion", figure)

    figure, ax = plt.subplots(figsize=(10, 6))
    draw_roc(pd.DataFrame(results["roc"]), ax)
    write("roc", figure)

    wrong = np.flatnonzero(predicted != labels)
    # Stable, so that images of equal confidence keep their order.
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:mistakes]
    columns = 6
    figure = plt.figure(figsize=(10, 1.9 * max(1, -(-len(worst) // columns)) + 0.4))
    draw_images(
        images[worst],
        [f"{labels[i]} read as {predicted[i]}, {confidence[i]:.1%}" for i in worst],
        [wrong_color] * len(worst),
        figure,
        columns,
    )
    figure.suptitle(f"The {len(worst)} most confident of {len(wrong)} mistakes", fontweight="bold")
    write("mistakes", figure)

    figure, axes = plt.subplots(2, 1, figsize=(10, 7), sharex=True, height_ratios=(3, 1))
    draw_reliability(pd.DataFrame(results["reliability"]), tuple(axes))
    write("reliability", figure)
