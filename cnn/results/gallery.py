"""Which pictures there are: PICTURES has a row for each, and `draw_all` writes them."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import deflate
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cnn.base.files import atomic_write, write_json
from cnn.results.figures import (
    DPI,
    FEW,
    ROWS,
    columns_of,
    draw_confusion,
    draw_curve,
    draw_reliability,
    draw_report,
    draw_roc,
    set_style,
    short,
)

RIGHT, WRONG = "black", "#b3431b"


class Results(NamedTuple):
    """What the pictures are drawn from.

    images : float32 (n, h, w, c) in [0, 1]; labels, predicted : int64 (n,); confidence : (n,).
    classes : k names.
    history : one row per epoch; tables : those of `cnn.results.metrics.evaluate`.
    suspects : m images, (h, w, c), those of the table `suspects`.
    samples, mistakes : how many images are shown.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    classes: list[str]
    history: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    suspects: list[NDArray[np.float32]]
    samples: int
    mistakes: int

    def worst(self) -> NDArray[np.int64]:
        """Return the indices of the most confident mistakes, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        # Stable, so that images of equal confidence keep their order.
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][: self.mistakes]

    def sampled(self) -> NDArray[np.int64]:
        """Return the indices of the samples: of each class in turn the first image, the second...

        Where they are fewer than the classes, of classes at even distances.
        """
        by_class = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels, minlength=len(self.classes))
        turn = np.empty_like(self.labels)
        turn[by_class] = np.arange(len(by_class)) - np.repeat(np.cumsum(counts) - counts, counts)
        in_turn, k = np.lexsort((self.labels, turn)), len(self.classes)
        if self.samples < k:
            return in_turn[np.arange(self.samples) * k // self.samples]
        return in_turn[: self.samples]


def draw_images(
    images: NDArray[np.float32] | list[NDArray[np.float32]],
    captions: list[str],
    colors: list[str],
    figure: Figure,
    columns: int,
    title: str = "",
) -> Figure:
    """Draw images (n, h, w, 1 or 3) in rows of `columns`, a caption above each.

    All share one Axes that covers the figure, in inches: one Axes per image takes a second longer.
    """
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    ax = figure.add_axes((0, 0, 1, 1))
    top = 0.35 if title else 0
    if title:
        figure.suptitle(title, fontweight="bold", y=1 - 0.05 / height, va="top")
    cell, row = width / columns, (height - top) / (-(-len(images) // columns) or 1)
    above = 0.06 + 0.17 * (1 + max((caption.count("\n") for caption in captions), default=0))
    for number, (image, caption, color) in enumerate(zip(images, captions, colors, strict=True)):
        middle, upper = (number % columns + 0.5) * cell, top + number // columns * row + above
        h, w = image.shape[:2]
        pixel = min((cell - 0.08) / w, (row - above - 0.06) / h)
        ax.imshow(
            image[..., 0] if image.shape[2] == 1 else image,
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(middle - w * pixel / 2, middle + w * pixel / 2, upper + h * pixel, upper),
        )
        ax.text(middle, upper - 0.05, caption, fontsize=10, color=color, ha="center")
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return figure


def _learning_curves(figure: Figure, results: Results) -> None:
    for ax, metric in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        draw_curve(results.history, metric, ax)


def _samples(figure: Figure, results: Results) -> None:
    sampled = results.sampled()
    pairs = list(zip(results.predicted[sampled], results.labels[sampled], strict=True))
    names = [short(name) for name in results.classes]
    between = "\n" if _named(results) else ", "
    draw_images(
        results.images[sampled],
        [f"predicted {names[p]}{between}true {names[a]}" for p, a in pairs],
        [RIGHT if p == a else WRONG for p, a in pairs],
        figure,
        columns=5,
    )


def _report(figure: Figure, results: Results) -> None:
    draw_report(results.tables["per_class"], figure.subplots())


def _confusion(figure: Figure, results: Results) -> None:
    draw_confusion(results.tables["confusion"], figure.subplots())


def _roc(figure: Figure, results: Results) -> None:
    draw_roc(results.tables["roc"], figure.subplots())


def _mistakes(figure: Figure, results: Results) -> None:
    worst = results.worst()
    names = [short(name) for name in results.classes]
    captions = [
        (names[results.labels[i]], names[results.predicted[i]], results.confidence[i])
        for i in worst
    ]
    after = "\n" if _named(results) else " "
    n = np.count_nonzero(results.predicted != results.labels)
    draw_images(
        results.images[worst],
        [f"{actual}{after}read as {read}, {share:.1%}" for actual, read, share in captions],
        [WRONG] * len(worst),
        figure,
        columns=6 if after == " " else 4,
        title=f"The {len(worst)} most confident of {n} mistakes",
    )


def _suspects(figure: Figure, results: Results) -> None:
    captions = [
        f"{row.split} {row.index}\nlabel {short(row.label)}\nread as {short(row.predicted)}"
        for row in results.tables["suspects"].itertuples(index=False)
    ]
    draw_images(
        results.suspects,
        captions,
        [WRONG] * len(captions),
        figure,
        columns=5,
        title="The labels most in doubt" if captions else "No label is in doubt",
    )


def _reliability(figure: Figure, results: Results) -> None:
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    draw_reliability(results.tables["reliability"], tuple(axes))


class Picture(NamedTuple):
    """A picture: its height in inches, what draws it, and its caption."""

    height: Callable[[Results], float]
    draw: Callable[[Figure, Results], None]
    caption: str


def _gallery(n: int, columns: int, row: float) -> float:
    return row * max(1, -(-n // columns))


def _named(results: Results) -> bool:
    return max(map(columns_of, results.classes)) > 2


PICTURES = {
    "learning_curves": Picture(
        lambda results: 4,
        _learning_curves,
        "Learning curves. Training is the mean over an epoch while the weights still change, "
        "validation is measured after it: early on, validation may look better.",
    ),
    "samples": Picture(
        lambda results: _gallery(results.samples, 5, 2.2),
        _samples,
        "Test images of each class in turn, with what was read and what they are.",
    ),
    "report": Picture(
        lambda results: (
            3 if len(results.classes) <= FEW else 1 + 0.3 * min(ROWS, len(results.classes))
        ),
        _report,
        "Precision: of the images read as a class, the share that is it. Recall: of a class's "
        "images, the share that was read as it. F1: their harmonic mean. The dark cells are the "
        "weak ones; mind the scale.",
    ),
    "confusion": Picture(
        lambda results: 8 if len(results.classes) <= 40 else 10,
        _confusion,
        "Rows are what the image shows, columns what was read. The colour is the share of the row, "
        "stretched so that one mistake in a thousand shows.",
    ),
    "roc": Picture(
        lambda results: 6,
        _roc,
        "Each class against the rest, in the corner where the curves differ: how many of its "
        "images are found (upwards) at the price of how many others taken for it (to the right).",
    ),
    "mistakes": Picture(
        lambda results: (
            _gallery(len(results.worst()), *((4, 2.6) if _named(results) else (6, 1.9))) + 0.35
        ),
        _mistakes,
        "The mistakes of which the model was most sure.",
    ),
    "suspects": Picture(
        lambda results: _gallery(len(results.suspects), 5, 2.5) + 0.35,
        _suspects,
        "Test and validation images whose label the model doubts most, by confident learning: look "
        "whether the label is wrong, or the model.",
    ),
    "reliability": Picture(
        lambda results: 7,
        _reliability,
        "Of the images read with a confidence, how many are right: on the diagonal the confidence "
        "can be taken at its word. Below, how many images that is.",
    ),
}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file: same pixels, same bytes.

    Not through Pillow, whose wheel compresses by the system's zlib: what that makes of the pixels
    depends on who built it. deflate's wheel has libdeflate in it, which computes with whole numbers
    only and makes the same of them on every processor; requirements.txt pins its version.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="rgba")
    width, height = figure.canvas.get_width_height()
    rows = np.frombuffer(stream.getvalue(), np.uint8).reshape(height, 4 * width)
    # A 0 before each row: it stands as it is. PNG's filters make charts and their text no smaller.
    rows = np.pad(rows, ((0, 0), (1, 0)))
    per_metre = round(DPI / 0.0254)
    chunks = {
        b"IHDR": struct.pack(">LLBBBBB", width, height, 8, 6, 0, 0, 0),  # 8 bits each of RGBA
        b"pHYs": struct.pack(">LLB", per_metre, per_metre, 1),
        b"IDAT": deflate.zlib_compress(rows.tobytes(), 9),  # 12 takes 0.7 s each for 9 % less
        b"IEND": b"",
    }
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in chunks.items():
            check = zlib.crc32(kind + content)
            file.write(struct.pack(">L", len(content)) + kind + content + struct.pack(">L", check))


def draw_all(folder: Path, results: Results) -> str:
    """Write a PNG for each of PICTURES into `folder`, and captions.json.

    Returns a note on what of the classes' names no font shows, "" if all is shown.
    """
    note = set_style(results.classes)
    for name, picture in PICTURES.items():
        figure = plt.figure(figsize=(10, picture.height(results)))
        picture.draw(figure, results)
        save(figure, folder / f"{name}.png")
        plt.close(figure)
    write_json(folder / "captions.json", {name: each.caption for name, each in PICTURES.items()})
    return note
