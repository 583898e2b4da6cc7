"""The pictures: each `draw_*` takes numbers and an Axes and returns it.

All computing is elsewhere; here is only what goes where, readable from 2 to 100 classes.
"""

import unicodedata
from collections.abc import Iterable
from itertools import accumulate

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from cnn.results.fonts import DEJAVU, is_wide, show_names

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")  # as many decimals as it takes
COUNT = FuncFormatter(lambda count, _: f"{count:,.0f}")
DPI = 100  # 10 inches are 1000 pixels, a README's width
PALETTE = "colorblind"
FEW = 15  # classes, up to which a matrix has room for numbers and a table stands on its side
ROWS = 26  # classes that a table shows: of more, the weakest


def set_style(names: Iterable[str] = ()) -> str:
    """Forget the user's matplotlibrc and style sheets: they must not change a picture.

    Returns a note on what of `names` no font shows, "" if all is shown.
    """
    matplotlib.use("Agg")
    matplotlib.rcdefaults()
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        font=DEJAVU,
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
            "text.parse_math": False,  # a class may be called $1
        },
    )
    return show_names(names)


def columns_of(name: str) -> int:
    """Return how wide a name is: a letter is a column, a Chinese character two, an accent none."""
    return sum(map(_columns, name))


def _columns(character: str) -> int:
    return 0 if unicodedata.category(character) in ("Mn", "Cf") else 1 + is_wide(character)


def short(name: str, most: int = 14) -> str:
    """Return a name of at most `most` columns, its end kept: names often differ there."""
    if columns_of(name) > most:
        name = _without_middle(name, most)
    # A mark on each side keeps the numbers after an Arabic or Hebrew name where they are.
    to_the_left = any(unicodedata.bidirectional(each) in ("R", "AL") for each in name)
    return f"\u200e{name}\u200e" if to_the_left else name


def _without_middle(name: str, most: int) -> str:
    start = sum(total <= most - 6 for total in accumulate(map(_columns, name)))
    end = sum(total <= 5 for total in accumulate(map(_columns, reversed(name))))
    while unicodedata.category(name[-end]).startswith("M"):  # it belongs to the letter before it
        end -= 1
    return f"{name[:start]}…{name[-end:]}"


def lean(ax: Axes, degrees: float = 35) -> None:
    """Turn the names below an Axes so that each ends at its column."""
    for label in ax.get_xticklabels():
        label.set(rotation=degrees, ha="right", va="center" if degrees == 90 else "top")
        label.set_rotation_mode("anchor")


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
        ax.set_yscale("log")  # the last epochs differ by little compared with the first
        ax.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("cross-entropy, nats")
    else:
        ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(frameon=False)
    return ax


def draw_report(per_class: pd.DataFrame, ax: Axes) -> Axes:
    """Draw precision, recall and F1 by class as an annotated heatmap, dark where it is weak."""
    k = len(per_class)
    if k > ROWS:
        per_class = per_class.nsmallest(ROWS, "f1", keep="first")
    table = per_class.set_index("class")[["precision", "recall", "f1"]]
    table.columns = ["precision", "recall", "F1"]
    table.index = [short(name, 24 if len(table) > FEW else 14) for name in table.index]
    on_its_side = len(table) <= FEW
    sns.heatmap(
        table.T if on_its_side else table,
        ax=ax,
        annot=True,
        fmt=".3f",
        cmap="cividis",
        vmin=min(0.98, table.to_numpy().min()),
        vmax=1,
        linewidths=1,
        annot_kws={"fontsize": 10 if len(table) > 10 else 12},
        cbar_kws={"pad": 0.01},
    )
    which = "class" if k <= ROWS else f"class, the {ROWS} weakest of {k}"
    ax.set(title=f"Precision, recall and F1 by {which}", xlabel="", ylabel="")
    ax.tick_params(length=0, rotation=0)
    if on_its_side and max(map(columns_of, table.index)) > 5:
        lean(ax)
    return ax


def draw_confusion(confusion: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the counts, coloured by their share of the row so that one mistake in 1,000 shows."""
    names = confusion["actual"].unique()
    k = len(names)
    counts, shares = (
        pd.DataFrame(confusion[column].to_numpy().reshape(k, k), names, names)
        for column in ("count", "share")
    )
    sns.heatmap(
        shares,
        ax=ax,
        annot=counts.map(lambda count: f"{count:,}" if count else "") if k <= FEW else False,
        fmt="",
        norm=PowerNorm(0.25, 0, 1),
        cmap="Blues",
        square=True,
        linewidths=0.5 if k <= FEW else 0,
        linecolor="#eeeeee",
        annot_kws={"fontsize": 11 if k <= 10 else 8},
        xticklabels=[short(name) for name in names],
        yticklabels=[short(name) for name in names],
        cbar_kws={
            "label": "share of the row",
            "ticks": [0, 0.001, 0.01, 0.1, 1],
            "format": PERCENT,
            "shrink": 0.8,
        },
    )
    ax.set(
        title="Confusion matrix: images of each class, by what was read",
        xlabel="predicted",
        ylabel="actual",
    )
    ax.tick_params(length=0, rotation=0, labelsize=max(5, min(11, 330 / k)))
    if max(map(columns_of, names)) > (2 if k > FEW else 5):
        lean(ax, 90 if k > FEW else 35)
    return ax


def draw_roc(roc: pd.DataFrame, ax: Axes) -> Axes:
    """Draw each class's ROC against the rest, near the corner where the curves differ."""
    for number, (name, curve) in enumerate(roc.groupby("class", sort=False)):
        # A logarithmic axis has no zero: what has no false positives starts at its edge.
        ax.step(
            curve["fpr"].clip(lower=1e-4),
            curve["tpr"],
            where="post",
            linewidth=2,
            color=sns.color_palette(PALETTE)[number],
            linestyle="-" if number < 5 else "--",
            label=f"{short(name)}   AUC {curve['auc'].iloc[0]:.5f}",
        )
    # The left end of a single curve may hang far below the rest.
    floor = roc.loc[roc["fpr"].between(1e-4, 1e-1), "tpr"].quantile(0.02)
    ax.set(
        title="ROC, each class against the rest: the corner",
        xscale="log",
        xlim=(1e-4, 1e-1),
        ylim=(floor - 0.02 * (1 - floor) - 1e-4, 1 + 0.02 * (1 - floor)),
        xlabel="false positive rate (logarithmic, up to 10 %)",
        ylabel="true positive rate",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PERCENT)
    ax.legend(title="class", frameon=False, loc="lower right", ncols=2)
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
        xlabel="confidence: probability of the predicted class",
    )
    lower.grid(visible=False)
    lower.yaxis.set_major_formatter(COUNT)
    lower.yaxis.set_minor_formatter(NullFormatter())
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PERCENT)
    return upper, lower
