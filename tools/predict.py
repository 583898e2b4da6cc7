"""Classify pictures with the trained model, whatever it was trained on.

    python -m tools.predict picture.png folder/ [--json]

Reads pictures (or all pictures in folders), the model, and what prepare wrote of the data: the
form of the images, how a picture of other proportions is fitted into it (`prepare.fit`), and the
names of the classes. What prepare would refuse is refused, and what it would read is read as
`prepare.image_size` and `prepare.channels` do it. Writes one line per picture to standard output. A
person's own digits, on paper and in any light, are for `handwriting.predict`.

A file that cannot be read gets one line `error: FILE: cause` on standard error and the exit code
becomes 1; the others are still read.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn import kernels
from cnn.base.errors import UserError, printable
from cnn.base.files import read_json
from cnn.base.program import run
from cnn.data.parallel import read_pictures
from cnn.data.pictures import FITS, SUFFIXES
from cnn.data.splits import normalize
from cnn.model import archive


def files_in(path: Path) -> list[Path]:
    """Return a file itself, or the pictures in a folder and its subfolders, sorted by name."""
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
    return found or [path]


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
    fit = about.get("fit", FITS[0])
    failed = 0
    seen: list[tuple[Path, NDArray[np.uint8]]] = []
    files = [file for picture in arguments.pictures for file in files_in(picture)]
    sources = zip(files, files, strict=True)
    for path, picture in read_pictures(sources, image_shape[:2], image_shape[2], fit):
        if isinstance(picture, UserError):
            failed = 1
            print(f"error: {printable(path)}: {picture}", file=sys.stderr)
        else:
            seen.append((path, picture))
    if not seen:
        return failed
    images = normalize(np.stack([picture for _, picture in seen]))
    probabilities = kernels.probabilities(model.network, model.weights, images)
    if not archive.are_probabilities(probabilities):
        raise UserError(f"{arguments.model}: gives no probabilities; choose another with --model")
    for (path, _), row in zip(seen, probabilities, strict=True):
        best = int(row.argmax())
        if arguments.json:
            each = {name: round(float(share), 6) for name, share in zip(classes, row, strict=True)}
            print(json.dumps({"image": str(path), "class": classes[best], "probabilities": each}))
        else:
            print(f"{printable(path)}: {classes[best]} ({row[best]:.1%})")
    return failed


if __name__ == "__main__":
    raise SystemExit(run(main))
