"""How long do 60,000 pictures take to be read and to be tracked, and how much memory?

    python -m benchmarks.own_pictures [--rounds 3] [--only jpeg] [--folder FOLDER]

Makes three sets from MNIST's training images: PNGs of 28 x 28 pixels in grey, JPEGs and PNGs of
64 x 64 in colour with noise, as cameras have it. Each reading is a process of its own on two cores,
of files that are in memory already; `before` is that of commit a39aefc, file by file. Their pixels
must be the same. What DVC takes to add the grey ones, and to see that nothing has changed, is
measured once per type of cache. With --folder the pictures are kept there, and are not made again.
Writes results/own_pictures.csv.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.commands import RAW, result_of
from benchmarks.harness import Candidate, Rows, markdown, names, of, ranged
from cnn.base.errors import UserError
from cnn.base.program import run

PICTURES = 60_000
BEFORE = "a39aefc"  # the last commit that read file by file
KINDS = {"grey PNG, 28": ("png", 28), "colour JPEG, 64": ("jpg", 64), "colour PNG, 64": ("png", 64)}
READERS = {
    "before": "from cnn.folders import _read_picture; "
    "pictures = (_read_picture(file, None, None)[0] for file in files)",
    "now": "from cnn.data.parallel import read_pictures; "
    "pictures = (p for _, p in read_pictures(zip(files, files), None, None))",
}
READ = """
import json, os, resource, sys, time, zlib
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
files = sorted(Path(sys.argv[1]).rglob("*.*"))
for file in files:
    file.read_bytes()  # from the disk, for whoever comes first
{reader}
start, crc, n = time.perf_counter(), 0, 0
for picture in pictures:
    crc, n = zlib.crc32(picture.tobytes(), crc), n + 1
seconds = time.perf_counter() - start
own, beside = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu = own.ru_utime + own.ru_stime + beside.ru_utime + beside.ru_stime
print(json.dumps({{
    "pictures": n, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2),
    # Of the processes beside only the largest is known: each counts as much.
    "peak_mb": round((own.ru_maxrss + 2 * beside.ru_maxrss) / 1024), "crc": f"{{crc:08x}}",
}}))
"""


def pictures(side: int) -> Iterator[Image.Image]:
    """Yield MNIST's training images as they are, or enlarged, in colour and with noise."""
    random = np.random.default_rng(0)
    for digit in np.load(RAW)["x_train"]:
        if side == 28:
            yield Image.fromarray(digit)
            continue
        corners = random.integers(0, 200, (4, 4, 3), dtype=np.uint8)
        ground = np.asarray(Image.fromarray(corners).resize((side, side)), dtype=np.int16)
        ink = np.asarray(Image.fromarray(digit).resize((side, side)), dtype=np.int16)[..., None]
        noise = random.integers(-6, 7, ground.shape, dtype=np.int16)
        yield Image.fromarray(np.clip(ground + ink // 3 + noise, 0, 255).astype(np.uint8))


def make(folder: Path, suffix: str, side: int) -> None:
    """Write the pictures of a set into a folder, as 00000.png and so on, unless it is there."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for number, picture in enumerate(pictures(side)):
        picture.save(partial / f"{number:05}.{suffix}")
    partial.rename(folder)


def reading(kind: str, reader: str, folder: Path, before: Path) -> Candidate:
    """Return the reading of a set as a candidate."""
    root = before if reader == "before" else harness.ROOT

    def measured(_: int) -> dict[str, object]:
        make(folder, *KINDS[kind])
        code = (
            f"import sys; sys.path.insert(0, {str(root)!r})\n{READ.format(reader=READERS[reader])}"
        )
        return result_of([sys.executable, "-P", "-c", code, folder])

    return {"candidate": f"{kind}: {reader}"}, measured


def tracking(command: str, cache: str, folder: Path, scratch: Path) -> Candidate:
    """Return `dvc add` or `dvc status` of the grey PNGs as a candidate, of the first round only."""
    repository = scratch / cache

    def measured(number: int) -> dict[str, object] | None:
        if number > 1:
            return None
        if command == "add":
            make(folder, *KINDS["grey PNG, 28"])
            shutil.copytree(folder, repository / "pictures")
            dvc(repository, "init", "--no-scm", "--quiet")
            dvc(repository, "config", "cache.type", cache)
        start = time.perf_counter()
        dvc(repository, command, "--quiet", *["pictures"] * (command == "add"))
        seconds = time.perf_counter() - start
        return {
            "pictures": PICTURES,
            "seconds": round(seconds, 2),
            "cpu_seconds": "",
            "peak_mb": "",
            "crc": "",
        }

    return {"candidate": f"dvc {command}: {cache}"}, measured


def dvc(repository: Path, *words: str) -> None:
    """Run dvc in a folder; a UserError where it fails."""
    command = [sys.executable, "-m", "dvc", *words]
    if subprocess.run(command, cwd=repository, check=False).returncode:
        raise UserError(f"'dvc {' '.join(words)}' failed in {repository}")


def table(rows: Rows) -> str:
    """Return the table of own_pictures.csv."""
    lines = []
    for kind in KINDS:
        for reader in READERS:
            name = f"{kind}: {reader}"
            quicker = [1 / ratio for ratio in harness.ratios(rows, name, f"{kind}: before")]
            cells = (of(rows, name, column) for column in ("seconds", "cpu_seconds", "peak_mb"))
            seconds, cpu, peak = cells
            lines.append(
                [
                    name,
                    len(seconds),
                    ranged(seconds),
                    ranged(cpu),
                    ranged(quicker),
                    f"{max(peak):.0f}",
                ]
            )
    titles = ["", "n", "seconds", "seconds of CPU", "times as fast", "peak memory, MB"]
    tracked = [
        [name, *(f"{seconds:.0f}" for seconds in of(rows, name, "seconds"))]
        for name in names(rows)
        if name.startswith("dvc ")
    ]
    return markdown(titles, lines) + "\n\n" + markdown(["`cache.type`", "seconds"], tracked)


def main(argv: list[str] | None = None) -> None:
    parser = harness.parser(__doc__, rounds=3)
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where pictures are kept")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = (arguments.folder or scratch).absolute()
        archive = subprocess.run(["git", "archive", BEFORE, "cnn"], capture_output=True, check=True)
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(scratch / "before", filter="data")
        places = {kind: folder / kind.replace(", ", "_").replace(" ", "_") for kind in KINDS}
        candidates = [
            reading(kind, reader, places[kind], scratch / "before")
            for kind in KINDS
            for reader in READERS
        ]
        candidates += [
            tracking(command, cache, places["grey PNG, 28"], scratch)
            for cache in ("copy", "hardlink")
            for command in ("add", "status")
        ]
        rows = harness.measure("own_pictures", candidates, arguments.rounds, arguments.only)
    for kind in KINDS:
        found = {row["crc"] for row in rows if row["candidate"].startswith(kind)}
        if len(found) > 1:
            raise UserError(f"{kind}: the readings gave other pixels: {', '.join(sorted(found))}")
    print(table(rows))


if __name__ == "__main__":
    raise SystemExit(run(main))
