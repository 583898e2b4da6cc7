"""Files that are read: shortened, lengthened, and with single bits flipped."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cnn.base import npz
from cnn.base.errors import UserError
from handwriting.predict import read_digit
from stages import prepare
from tests.faults.common import Fault, Given, called, damaged, refused


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    folder = given.folder / "inputs"
    called(prepare.main, given.prepare(given.folder / "mnist/mnist.npz", folder))
    flips = 200 if full else 20
    yield from _damaged(given, folder, flips, rng)
    yield from _images(folder, flips, rng)


def _damaged(given: Given, folder: Path, flips: int, rng: np.random.Generator) -> Iterator[Fault]:
    """What is read is what was written, to the bit, or is refused."""
    paths = [given.folder / "mnist/mnist.npz"]
    paths += [folder / f"{split}.npz" for split in ("train", "validation", "test")]
    probabilities = np.full((100, 10), 0.1, np.float32)
    names = {"classes": np.arange(10).astype(str), "images": np.array(["0" * 16] * 100)}
    npz.write_arrays(folder / "predictions.npz", probabilities=probabilities, **names)
    for path in [*paths, folder / "predictions.npz"]:
        with np.load(path) as arrays:
            whole = {name: arrays[name] for name in arrays}
        broken = folder / "broken.npz"
        for what, content in damaged(path.read_bytes(), flips, rng):
            broken.write_bytes(content)
            found: list = []

            def read(_: object, names=tuple(whole), broken=broken, found=found) -> None:
                found += npz.read_arrays(broken, names)

            ended = called(read, [])
            same = len(found) == len(whole) and all(
                a.dtype == b.dtype and np.array_equal(a, b)
                for a, b in zip(found, whole.values(), strict=True)
            )
            yield Fault(f"{path.name}, {what}", "" if same else refused(ended, broken))


def _images(folder: Path, flips: int, rng: np.random.Generator) -> Iterator[Fault]:
    """A person's picture: read, whatever it shows then, or refused in a line."""
    pixels = np.full((60, 60), 255, np.uint8)
    pixels[10:50, 28:32] = 20
    path = folder / "picture"
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        for what, content in damaged(stream.getvalue(), flips, rng):
            path.write_bytes(content)
            try:
                seen = read_digit(path)[0]
                problem = "" if seen.shape == (28, 28) else f"gave {seen.shape}"
            except UserError as error:
                problem = repr(error) if "\n" in str(error) or not str(error) else ""
            except Exception as error:
                problem = repr(error)
            yield Fault(f"{kind}, {what}", problem)
