"""Classify pictures with the trained model, whatever it was trained on.

    python -m tools.predict picture.png folder/ [--json]

Reads pictures (or all pictures in folders), the model, and what prepare wrote of the data: the
form of the images and the names of the classes. A picture of another size is resized as
`prepare.image_size` does it. Writes one line per picture to standard output. A person's own digits,
on paper and in any light, are for `handwriting.predict`.

A file that cannot be read gets one line `error: FILE: cause` on standard error and the exit code
becomes 1; the others are still read.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn import archive, kernels
from cnn.errors import UserError, run
from cnn.files import read_json
from cnn.pictures import SUFFIXES, decode, read_file, to_pixels


def files_in(path: Path) -> list[Path]:
    """Return a file itself, or the pictures in a folder and its subfolders, sorted by name."""
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
    return found or [path]


def read_picture(path: Path, image_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return a picture as the network sees it: float32 (h, w, c) in [0, 1].

    Raises
    ------
    UserError
        The file is no picture that can be read.
    """
    height, width, channels = image_shape
    image, _ = decode(read_file(path))
    pixels = to_pixels(image, None, channels)
    if pixels.shape[:2] != (height, width):
        whole = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        pixels = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR))
        pixels = pixels.reshape(image_shape)
    return pixels.astype(np.float32) / np.float32(255)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="file or folder")
    parser.add_argument("--model", type=Path, default=Path("models/cnn.keras"))
    parser.add_argument("--data", type=Path, default=Path("reports/prepare/data.json"))
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args(argv)
    about = read_json(arguments.data)
    image_shape = about["height"], about["width"], about["channels"]
    classes = list(about["images_by_class"])
    model = archive.read(arguments.model, image_shape, len(classes))
    failed = 0
    seen: list[tuple[Path, NDArray[np.float32]]] = []
    for path in [file for picture in arguments.pictures for file in files_in(picture)]:
        try:
            seen.append((path, read_picture(path, image_shape)))
        except UserError as error:
            failed = 1
            print(f"error: {path}: {error}", file=sys.stderr)
    if not seen:
        return failed
    probabilities = kernels.probabilities(
        model.network, model.weights, np.stack([image for _, image in seen])
    )
    if not archive.are_probabilities(probabilities):
        raise UserError(f"{arguments.model}: gives no probabilities; choose another with --model")
    for (path, _), row in zip(seen, probabilities, strict=True):
        best = int(row.argmax())
        if arguments.json:
            each = {name: round(float(share), 6) for name, share in zip(classes, row, strict=True)}
            print(json.dumps({"image": str(path), "class": classes[best], "probabilities": each}))
        else:
            print(f"{path}: {classes[best]} ({row[best]:.1%})")
    return failed


if __name__ == "__main__":
    raise SystemExit(run(main))
