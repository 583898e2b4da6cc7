"""Check and normalize the raw images, and set validation and test images aside.

    python -m stages.prepare --raw data/raw/published.npz --train data/prepared/train.npz \
        --validation data/prepared/validation.npz --test data/prepared/test.npz \
        --summary reports/prepare/data.json

Reads what `prepare.raw` names: what fetch wrote, or images of your own in one of the formats of
docs/own-data.md. Writes three npz, each with `images` float32 (n, h, w, c) in [0, 1] (0 is paper,
1 is ink), `labels` int64 (n,) and `classes` str (k,); and a summary of what the data is.
"""

import argparse
import sys
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from cnn.base.files import write_json
from cnn.base.npz import write_arrays
from cnn.base.params import Section, load
from cnn.base.program import run
from cnn.data.raw import SPLITS, Options, Raw
from cnn.data.readers import read
from cnn.data.sets import digests
from cnn.data.splits import Subset, conflicts, remarks, shared_groups, split


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
    fit: Literal["pad", "stretch", "crop"] = Field(description="pad, stretch or crop")
    channels: Channels = Field(description="1 or 3, or empty")
    transpose: bool
    groups: bool


FITTED = {"pad": "padded", "stretch": "stretched", "crop": "cropped"}


def summary(
    subsets: dict[str, Subset],
    hashes: dict[str, NDArray[np.uint64]],
    raw: Raw,
    params: PrepareParams,
    path: Path,
) -> dict[str, object]:
    """Return what the model card says of the data. No value is a list: DVC would draw it.

    hashes : a digest of each image, in the order of each subset.
    """
    repeated = np.isin(hashes["test"], np.concatenate([hashes["train"], hashes["validation"]]))
    counts = {name: subset.counts(len(raw.classes)) for name, subset in subsets.items()}
    height, width, channels = subsets["train"].given.images.shape[1:]
    published = raw.published
    size, fit = params.image_size, FITTED[params.fit]
    description = f"Images from {path.as_posix()}, {raw.format}"
    description += f", each {fit} to {size} x {size} pixels" * (size is not None)
    description += ", rows and columns exchanged" * params.transpose
    whole = ", each group on one side" if params.groups else ""
    drawn = f"drawn by class with seed {params.seed}{whole}"
    how = "the last ones" if published else drawn
    validation = f"{params.validation_share:.3g} of the training images, {how}"
    test = f"{params.test_share:.3g} of all images, {drawn}"
    shared, n = shared_groups(subsets)
    flatters = f", {len(shared):,} of {n:,} groups on several sides" if shared else ""
    return {
        "title": published.title if published else "Own images",
        "description": published.description if published else f"{description}.",
        "limits": published.limits if published else "",
        "licence": published.licence if published else "",
        "height": height,
        "width": width,
        "channels": channels,
        "fit": params.fit,
        "classes": len(raw.classes),
        **{f"{name}_images": len(subset.rows) for name, subset in subsets.items()},
        "validation": "as it came" if "validation" in raw.splits else validation,
        "test": ("as it came" if "test" in raw.splits else test) + flatters,
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
    for name in SPLITS:
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="NPZ", help="written")
    parser.add_argument("--summary", type=Path, required=True, metavar="JSON", help="written")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "prepare", PrepareParams)

    options = Options(
        params.image_size, params.channels, params.fit, params.transpose, arguments.train.parent
    )
    raw = read(arguments.raw, options)
    subsets = split(raw, params.validation_share, params.test_share, params.seed, params.groups)
    for note in raw.notes + remarks(subsets, raw.classes):
        print(f"note: {arguments.raw}: {note}", file=sys.stderr)
    if not raw.published:
        warn_of_untracked(arguments.raw)
    hashes = {name: digests(subset.normalized().chunks) for name, subset in subsets.items()}
    if twice := conflicts(subsets, hashes, raw.classes):
        print(f"warning: {arguments.raw}: identical images, other labels: {twice}", file=sys.stderr)
    about = summary(subsets, hashes, raw, params, arguments.raw)
    for name, subset in subsets.items():
        write_arrays(
            getattr(arguments, name),
            images=subset.normalized(),
            labels=subset.labels,
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
