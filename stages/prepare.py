"""Check and normalize the raw images, and set validation and test images aside.

    python -m stages.prepare --raw data/raw/published.npz --train data/prepared/train.npz \
        --validation data/prepared/validation.npz --test data/prepared/test.npz \
        --summary reports/prepare/data.json

Reads what `prepare.raw` names: what fetch wrote, or images of your own, an npz or a folder (see
docs/own-data.md). Writes three npz, each with `images` float32 (n, h, w, c) in [0, 1] (0 is paper,
1 is ink), `labels` int64 (n,) and `classes` str (k,); and a summary of what the data is.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from cnn.data import Raw, digests
from cnn.errors import UserError, run
from cnn.files import write_json
from cnn.npz import Parts, pieces, write_arrays
from cnn.params import Section, load
from cnn.raw import read

Indices = NDArray[np.int64]


def _grey_or_colour(channels: int | None) -> int | None:
    if channels not in (None, 1, 3):
        raise ValueError
    return channels


# Not a Literal, which takes True for 1.
Channels = Annotated[int | None, AfterValidator(_grey_or_colour)]


class PrepareParams(Section):
    """Section `prepare` of params.yaml."""

    raw: str = Field(min_length=1, description="a path, tracked by DVC")
    validation_share: float = Field(gt=0, lt=1)
    test_share: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0, le=2**32 - 1)
    image_size: int | None = Field(
        ge=8, le=256, description="empty, or a whole number from 8 to 256"
    )
    channels: Channels = Field(description="empty, 1 or 3")


def normalize(images: NDArray) -> NDArray[np.float32]:
    """Return uint8 in [0, 255], or float32 in [0, 1], as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


class Part(NamedTuple):
    """What becomes train.npz, validation.npz or test.npz, and is never held as a whole.

    images : those that were given, (m, h, w, c); labels : int64 (m,).
    rows : int64 (n,), which of them it has.
    """

    images: NDArray
    labels: NDArray[np.int64]
    rows: Indices

    def pieces(self) -> Iterator[NDArray]:
        """Yield its images as they were given, some at a time."""
        size = 4 * math.prod(self.images.shape[1:])  # bytes of an image when it is normalized
        return (self.images[self.rows[each]] for each in pieces(len(self.rows), size))

    def normalized(self) -> Iterator[NDArray[np.float32]]:
        """Yield its images in [0, 1], some at a time."""
        return map(normalize, self.pieces())


def last(n: int, share: float) -> tuple[Indices, Indices]:
    """Return the indices that are kept, and the last ones, as Keras' `validation_split` does."""
    start = int(n * (1 - share))
    return np.arange(start), np.arange(start, n)


def drawn_by_class(part: Part, share: float, seed: int, purpose: str) -> tuple[Part, Part]:
    """Return what is kept of `part`, and a share of each class, at least one image, drawn.

    By a hash of the image, seed and purpose, not by place: when more images arrive, most of those
    that were drawn are drawn again, so that versions of the data can be compared, and equal images
    fall on the same side as far as the share allows.
    """
    order = part.rows[np.argsort(digests(part.pieces(), f"{purpose} {seed}"), kind="stable")]
    taken = []
    for label in np.unique(part.labels[part.rows]):
        members = order[part.labels[order] == label]
        taken.append(members[: max(1, round(share * len(members)))])
    chosen = np.sort(np.concatenate(taken))
    return part._replace(rows=np.setdiff1d(part.rows, chosen)), part._replace(rows=chosen)


def split(raw: Raw, params: PrepareParams) -> dict[str, Part]:
    """Return {"train", "validation", "test"}.

    A published data set was shuffled by those who published it: its last images are a fair sample,
    and those that Keras takes. One's own images may lie by class, so they are drawn from each.

    Raises
    ------
    UserError
        A part would lack a class.
    """
    train = Part(raw.x_train, raw.y_train, np.arange(len(raw.y_train)))
    if raw.x_test is None:
        train, test = drawn_by_class(train, params.test_share, params.seed, "test")
    else:
        test = Part(raw.x_test, raw.y_test, np.arange(len(raw.y_test)))
    if raw.published:
        kept_and_last = last(len(train.rows), params.validation_share)
        train, validation = (train._replace(rows=rows) for rows in kept_and_last)
    else:
        train, validation = drawn_by_class(
            train, params.validation_share, params.seed, "validation"
        )
    parts = {"train": train, "validation": validation, "test": test}
    for name, part in parts.items():
        absent = np.setdiff1d(np.arange(len(raw.classes)), part.labels[part.rows])
        if len(absent) and (name != "validation" or not len(part.rows)):
            raise UserError(
                f"prepare.validation_share {params.validation_share:g} and prepare.test_share "
                f"{params.test_share:g} leave no {name} image of class "
                f"{raw.classes[absent[0]]}; choose others, or add images of it"
            )
    return parts


def summary(
    parts: dict[str, Part], raw: Raw, params: PrepareParams, path: Path
) -> dict[str, object]:
    """Return what the model card says of the data. No value is a list: DVC would draw it."""
    known = np.concatenate([digests(parts[name].normalized()) for name in ("train", "validation")])
    repeated = np.isin(digests(parts["test"].normalized()), known)
    height, width, channels = raw.x_train.shape[1:]
    published = raw.published
    how = "the last ones" if published else f"drawn by class with seed {params.seed}"
    drawn = f"{params.test_share:.3g} of all images, drawn by class with seed {params.seed}"
    return {
        "title": published.title if published else "Own images",
        "description": published.description if published else f"Images from {path.as_posix()}.",
        "limits": published.limits if published else "",
        "licence": published.licence if published else "",
        "height": height,
        "width": width,
        "channels": channels,
        "classes": len(raw.classes),
        **{f"{name}_images": len(part.rows) for name, part in parts.items()},
        "validation": f"{params.validation_share:.3g} of the training images, {how}",
        "test": drawn if raw.x_test is None else "as it came",
        "test_images_also_in_training": int(repeated.sum()),
        "images_by_class": {
            name: {
                split: int((part.labels[part.rows] == label).sum()) for split, part in parts.items()
            }
            for label, name in enumerate(raw.classes)
        },
    }


def warn_of_untracked(path: Path) -> None:
    """Say so if DVC does not know the images: a later version could not be told from this one."""
    above = [each for each in (path, *path.parents) if each.name]
    if not any(Path(f"{each}.dvc").is_file() for each in above):
        print(
            f"warning: {path}: is no published data and is not tracked; run 'dvc add {path}', "
            "under a name of its own if fetch writes this one",
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--raw", type=Path, required=True, metavar="PATH", help="read")
    for name in ("train", "validation", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="NPZ", help="written")
    parser.add_argument("--summary", type=Path, required=True, metavar="JSON", help="written")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "prepare", PrepareParams)

    raw = read(arguments.raw, params.image_size, params.channels, arguments.train.parent)
    for note in raw.notes:
        print(f"note: {arguments.raw}: {note}", file=sys.stderr)
    if not raw.published:
        warn_of_untracked(arguments.raw)
    parts = split(raw, params)
    about = summary(parts, raw, params, arguments.raw)
    for name, part in parts.items():
        write_arrays(
            getattr(arguments, name),
            images=Parts((len(part.rows), *part.images.shape[1:]), np.float32, part.normalized()),
            labels=part.labels[part.rows],
            classes=np.array(raw.classes),
        )
    write_json(arguments.summary, about)
    print(
        f"{about['title']}: {about['train_images']:,} images for training, "
        f"{about['validation_images']:,} for validation, {about['test_images']:,} for the test; "
        f"{about['test_images_also_in_training']} of the latter are in training too, to the bit"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
