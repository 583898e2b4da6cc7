"""Read handwritten digits from image files.

Reads images (or all images in folders) and a model, writes one line per image to standard output:

    python -m handwriting.predict photo.jpg scans/ [--json] [--show seen.png]
                                  [--model models/cnn.keras]

A file that cannot be read gets one line `error: FILE: cause` on standard error and the exit code
becomes 1; the others are still read.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from cnn import kernels
from cnn.base.errors import UserError, printable
from cnn.base.files import atomic_write
from cnn.base.program import run
from cnn.data.pictures import SUFFIXES, decode_file
from cnn.model import archive
from handwriting.ink import to_mnist

IMAGE_SHAPE, DIGITS = (28, 28, 1), 10  # what MNIST's models read
UNSURE = 0.7  # below this probability the answer is called unsure
CLOSE = 0.1  # a second digit as likely as this is named too
BATCH = 250  # images that are read before they are predicted together
SHOWN = 20  # rows of a --show picture


def files_in(path: Path) -> list[Path]:
    """Return a file itself, or the images in a folder and its subfolders, sorted by name.

    A folder without images is returned itself, so that reading it says so in its turn.
    """
    if not os.path.isdir(path):  # Path.is_dir raises where a folder must not be entered
        return [path]
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        found.append(Path(error.filename))  # reading it will say why

    for folder, _, names in os.walk(path, onerror=unreadable):  # follows no links to folders
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(found) or [path]


def read_digit(path: Path) -> tuple[np.ndarray, str]:
    """Return what the network sees of the picture in a file, uint8 (28, 28), and a note.

    Raises
    ------
    UserError
        If the file is not an image with a digit on it.
    """
    if os.path.isdir(path) and os.access(path, os.R_OK):
        raise UserError("no images in this folder")
    image, more = decode_file(path)
    return to_mnist(image), "the first of its frames" if more else ""


def outcome(path: Path) -> tuple[np.ndarray, str] | UserError:
    """Return what `read_digit` returns, or the error that it raises."""
    try:
        return read_digit(path)
    except UserError as error:
        return error


def read_digits(
    arguments: list[Path], failures: list[Path]
) -> Iterator[tuple[Path, np.ndarray, str]]:
    """Yield each image's path and what `read_digit` gives; what fails is reported and collected."""
    paths = [path for argument in arguments for path in files_in(argument)]
    for path, result in zip(paths, map(outcome, paths), strict=True):
        if isinstance(result, UserError):
            failures.append(path)
            print(f"error: {printable(path)}: {result}", file=sys.stderr)
        else:
            yield path, *result


def load_reader(path: Path) -> archive.Model:
    """Return the model in a file, if it reads such images as ten digits.

    Raises
    ------
    UserError
        Naming the file and what it is instead.
    """
    return archive.read(path, IMAGE_SHAPE, DIGITS)


def probabilities_of(model: archive.Model, raw_images: np.ndarray) -> np.ndarray:
    """Return the model's float32 (n, 10) probabilities of uint8 (n, 28, 28) images.

    Raises
    ------
    UserError
        They are none: its weights are too large.
    """
    images = raw_images[..., np.newaxis].astype(np.float32) / np.float32(255)
    probabilities = kernels.probabilities(model.network, model.weights, images)
    if not archive.are_probabilities(probabilities):
        raise UserError("the model gives no probabilities; choose another with --model")
    return probabilities


def sentence(name: str, probabilities: np.ndarray, note: str) -> str:
    """Return the line that a person reads about one image."""
    second, first = np.argsort(probabilities)[-2:]
    text = f"{name}: {first} ({probabilities[first]:.1%})"
    if probabilities[second] >= CLOSE:
        text += f", or {second} ({probabilities[second]:.1%})"
    if probabilities[first] < UNSURE:
        text += ", unsure"
    return text + (f" [{note}]" if note else "")


def record(path: Path, probabilities: np.ndarray) -> str:
    """Return the JSON object of one image, on one line."""
    digit = int(probabilities.argmax())
    values = [round(float(value), 6) for value in probabilities]
    result = {"image": os.fspath(path), "digit": digit, "probability": values[digit]}
    return json.dumps(result | {"probabilities": values})


def draw(rows: list[tuple[Path, np.ndarray, np.ndarray]], path: Path) -> None:
    """Draw each (image's path, what the network saw, probabilities) as a row of three panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.9 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 3, squeeze=False, width_ratios=(1, 1, 1.6))
    for (image, seen, probabilities), (left, middle, right) in zip(rows, grid, strict=True):
        given, _ = decode_file(image)
        given.thumbnail((160, 160))
        deep = given.mode.startswith(("I", "F"))  # more than 8 bits: Pillow would clip them
        left.imshow(given if deep else given.convert("RGB"), cmap="gray")
        name = printable(image)
        short = name if len(name) <= 24 else "…" + name[-23:]
        left.set_title(short, fontsize=9, parse_math=False)
        middle.imshow(seen, cmap="gray", vmin=0, vmax=255)
        middle.set_title("what the network sees", fontsize=9)
        colours = ["#b8c4ce"] * 10
        colours[int(probabilities.argmax())] = "#0b6e99"
        right.bar(range(10), probabilities, color=colours)
        right.set(ylim=(0, 1), xticks=range(10), yticks=(0, 0.5, 1))
        right.set_title(f"{probabilities.argmax()} ({probabilities.max():.1%})", fontsize=9)
        right.spines[["top", "right"]].set_visible(False)
        for panel in (left, middle):
            panel.set_axis_off()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="handwriting.predict", description="Read handwritten digits."
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="file or folder")
    parser.add_argument("--model", type=Path, default=Path("models/cnn.keras"))
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--show", type=Path, metavar="OUT.png", help="draw what the network saw")
    arguments = parser.parse_args(argv)

    if arguments.show and arguments.show.suffix.lower() != ".png":
        raise UserError(f"--show {arguments.show}: what is written is a PNG; name it so")
    if arguments.show in arguments.images:
        raise UserError(f"--show {arguments.show}: is an image to read; name another file")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    failures: list[Path] = []
    shown: list[tuple[Path, np.ndarray, np.ndarray]] = []
    digits = read_digits(arguments.images, failures)
    if first := next(digits, None):  # without an image, no model is needed
        model = load_reader(arguments.model)
        digits = chain([first], digits)
    while batch := list(islice(digits, BATCH)):
        results = probabilities_of(model, np.stack([seen for _, seen, _ in batch]))
        for (path, seen, note), probabilities in zip(batch, results, strict=True):
            if arguments.json:
                print(record(path, probabilities))
                if note:
                    print(f"note: {printable(path)}: {note}", file=sys.stderr)
            else:
                print(sentence(printable(path), probabilities, note))
            if arguments.show and len(shown) < SHOWN:
                shown.append((path, seen, probabilities))
        sys.stdout.flush()
    if shown:
        draw(shown, arguments.show)
    return int(bool(failures))


if __name__ == "__main__":
    try:
        code = run(main)
        sys.stdout.flush()
    except BrokenPipeError:  # `... | head` ends it quietly, as it ends `cat`
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    raise SystemExit(code)
