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
from pydantic import AfterValidator, Field

from cnn.base.files import write_json
from cnn.base.npz import write_arrays
from cnn.base.params import Section, load
from cnn.base.program import run
from cnn.data.raw import Raw
from cnn.data.readers import read
from cnn.data.sets import digests
from cnn.data.splits import NAMES, Subset, split


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
    image_size: int | None = Field(ge=8, le=256)
    channels: Channels = Field(description="1 or 3, or empty")


def summary(
    splits: dict[str, Subset], raw: Raw, params: PrepareParams, path: Path
) -> dict[str, object]:
    """Return what the model card says of the data. No value is a list: DVC would draw it."""
    hashes = {name: digests(subset.normalized().chunks) for name, subset in splits.items()}
    repeated = np.isin(hashes["test"], np.concatenate([hashes["train"], hashes["validation"]]))
    counts = {name: subset.counts(len(raw.classes)) for name, subset in splits.items()}
    height, width, channels = raw.x_train.shape[1:]
    published = raw.published
    drawn = f"drawn by class with seed {params.seed}"
    how = "the last ones" if published else drawn
    return {
        "title": published.title if published else "Own images",
        "description": published.description if published else f"Images from {path.as_posix()}.",
        "limits": published.limits if published else "",
        "licence": published.licence if published else "",
        "height": height,
        "width": width,
        "channels": channels,
        "classes": len(raw.classes),
        **{f"{name}_images": len(subset.rows) for name, subset in splits.items()},
        "validation": f"{params.validation_share:.3g} of the training images, {how}",
        "test": "as it came"
        if raw.x_test is not None
        else f"{params.test_share:.3g} of all images, {drawn}",
        "test_images_also_in_training": int(repeated.sum()),
        "images_by_class": {
            name: {split: int(each[label]) for split, each in counts.items()}
            for label, name in enumerate(raw.classes)
        },
    }


def warn_of_untracked(path: Path) -> None:
    """Warn if DVC does not track the images: it could not tell a later version from this one."""
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
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="NPZ", help="written")
    parser.add_argument("--summary", type=Path, required=True, metavar="JSON", help="written")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "prepare", PrepareParams)

    raw = read(arguments.raw, params.image_size, params.channels, arguments.train.parent)
    for note in raw.notes:
        print(f"note: {arguments.raw}: {note}", file=sys.stderr)
    if not raw.published:
        warn_of_untracked(arguments.raw)
    splits = split(raw, params.validation_share, params.test_share, params.seed)
    about = summary(splits, raw, params, arguments.raw)
    for name, subset in splits.items():
        write_arrays(
            getattr(arguments, name),
            images=subset.normalized(),
            labels=subset.labels[subset.rows],
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
