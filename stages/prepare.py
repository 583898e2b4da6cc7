"""Check and normalize the raw images, and set validation and test images aside.

    python -m stages.prepare --raw data/raw/published.npz --train data/prepared/train.npz \
        --validation data/prepared/validation.npz --test data/prepared/test.npz \
        --summary reports/prepare/data.json

Reads what `prepare.raw` names: what fetch wrote, or images of your own, an npz or a folder (see
docs/own-data.md). Writes three npz, each with `images` float32 (n, h, w, c) in [0, 1] (0 is paper,
1 is ink), `labels` int64 (n,) and `classes` str (k,); and a summary of what the data is.
"""

import argparse
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from cnn.data import Data, Raw, fingerprints, save
from cnn.errors import UserError, run
from cnn.files import write_json
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
    size: int | None = Field(ge=8, le=256, description="empty, or a whole number from 8 to 256")
    channels: Channels = Field(description="empty, 1 or 3")


def normalize(images: NDArray) -> NDArray[np.float32]:
    """Return uint8 in [0, 255], or float32 in [0, 1], as float32 in [0, 1]."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def last(n: int, share: float) -> tuple[Indices, Indices]:
    """Return the indices that are kept, and the last ones, as Keras' `validation_split` does."""
    start = int(n * (1 - share))
    return np.arange(start), np.arange(start, n)


def drawn_by_class(
    images: NDArray, labels: NDArray[np.int64], share: float, seed: int, purpose: str
) -> tuple[Indices, Indices]:
    """Return the indices that are kept, and a share of each class, at least one image, drawn.

    By a hash of the image, seed and purpose, not by place: when more images arrive, most of those
    that were drawn are drawn again, so that versions of the data can be compared, and equal images
    fall on the same side as far as the share allows.
    """
    salt = f"{purpose} {seed}"
    order = np.argsort(fingerprints(images, salt), kind="stable")
    taken = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        taken.append(members[: max(1, round(share * len(members)))])
    chosen = np.sort(np.concatenate(taken))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def split(raw: Raw, params: PrepareParams) -> dict[str, Data]:
    """Return {"train", "validation", "test"}.

    A published data set was shuffled by those who published it: its last images are a fair sample,
    and those that Keras takes. One's own images may lie by class, so they are drawn from each.

    Raises
    ------
    UserError
        A part would lack a class.
    """
    classes = np.array(raw.classes)
    x, y = raw.x_train, raw.y_train
    if raw.x_test is None:
        kept, chosen = drawn_by_class(x, y, params.test_share, params.seed, "test")
        test_images, test_labels = x[chosen], y[chosen]
        x, y = x[kept], y[kept]
    else:
        test_images, test_labels = raw.x_test, raw.y_test
    if raw.published:
        kept, chosen = last(len(y), params.validation_share)
    else:
        kept, chosen = drawn_by_class(x, y, params.validation_share, params.seed, "validation")
    parts = {
        "train": (x[kept], y[kept]),
        "validation": (x[chosen], y[chosen]),
        "test": (test_images, test_labels),
    }
    for name, (_, labels) in parts.items():
        absent = np.setdiff1d(np.arange(len(classes)), labels)
        if len(absent) and (name != "validation" or not len(labels)):
            raise UserError(
                f"prepare.validation_share {params.validation_share:g} and prepare.test_share "
                f"{params.test_share:g} leave no {name} image of class "
                f"{classes[absent[0]]}; choose others, or add images of it"
            )
    return {
        name: Data(normalize(images), labels, classes) for name, (images, labels) in parts.items()
    }


def summary(
    parts: dict[str, Data], raw: Raw, params: PrepareParams, path: Path
) -> dict[str, object]:
    """Return what the model card says of the data. No value is a list: DVC would draw it."""
    known = set(fingerprints(np.concatenate([parts["train"].images, parts["validation"].images])))
    height, width, channels = parts["train"].images.shape[1:]
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
        **{f"{name}_images": len(part.labels) for name, part in parts.items()},
        "validation": f"{params.validation_share:.3g} of the training images, {how}",
        "test": drawn if raw.x_test is None else "as it came",
        "test_images_also_in_training": sum(
            each in known for each in fingerprints(parts["test"].images)
        ),
        "images_by_class": {
            name: {part: int((data.labels == label).sum()) for part, data in parts.items()}
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

    raw = read(arguments.raw, params.size, params.channels)
    for note in raw.notes:
        print(f"note: {arguments.raw}: {note}", file=sys.stderr)
    if not raw.published:
        warn_of_untracked(arguments.raw)
    parts = split(raw, params)
    about = summary(parts, raw, params, arguments.raw)
    for name, part in parts.items():
        save(getattr(arguments, name), part)
    write_json(arguments.summary, about)
    print(
        f"{about['title']}: {about['train_images']:,} images for training, "
        f"{about['validation_images']:,} for validation, {about['test_images']:,} for the test; "
        f"{about['test_images_also_in_training']} of the latter are in training too, to the bit"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
