"""What does it cost to prepare and to train on more images than fit into memory?

    python -m benchmarks.large [--rounds 1] [--images 2000000] [--steps 750]

Makes images of MNIST's, each copy shifted by other pixels, prepares them and trains some steps: on
few of them, held in memory; on all of them, held in memory; and on all of them, mapped, where a
control group limits what prepares and trains to 2 GB, the kernel's cache of files included. So it
wants a user who may make such a group, root, and below data/ 4 KB of disk per image, in memory 3.
Writes results/large.csv.
"""

import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import rows as common
from benchmarks.rows import RAW, Rows, append, count, last_line, markdown, stage_command
from cnn.errors import UserError, run
from cnn.npz import Parts, read_arrays, write_arrays
from cnn.published import ARRAYS

LIMIT = 2 * 10**9  # bytes
FEW = 60_000
# Where a control group of memory is made, and its files: the limit, and the most that was used.
CONTROL = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak"),
)
ENTER = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')
TITLES = {
    "few": "few, in memory",
    "held": "all, in memory",
    "mapped": f"all, mapped, in {LIMIT / 1e9:.0f} GB",
}


def shifted(images: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Yield n images, the given ones again and again, each time shifted by other pixels."""
    ways = [way for way in itertools.product(range(-3, 4), repeat=2) if any(way)]
    for way in sorted(ways, key=lambda way: (abs(way[0]) + abs(way[1]), way)):
        yield np.roll(images, way, axis=(1, 2))[:n]
        n -= min(n, len(images))
    if n:
        raise UserError(f"--images: at most {len(ways) * len(images):,} are made")


def make(path: Path, n: int) -> None:
    """Write an npz with n images for training, and MNIST's own for the test."""
    images, labels, x_test, y_test = read_arrays(RAW, ARRAYS)
    many = Parts((n, *images.shape[1:]), images.dtype, shifted(images, n))
    write_arrays(path, x_train=many, y_train=np.resize(labels, n), x_test=x_test, y_test=y_test)


def group() -> tuple[Path, Path]:
    """Make a control group with the limit; return its folder, and the file of its greatest use."""
    root, limit, used = next(kind for kind in CONTROL if kind[0].is_dir())
    folder = root / f"large-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(LIMIT))
    except OSError as error:
        raise UserError(f"{folder}: no control group of memory: {error.strerror}") from None
    return folder, folder / used


def forget(folder: Path) -> None:
    """Let the kernel's cache forget a folder's files: what is in it already counts in no group."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def prepare(folder: Path, n: int, *before: object) -> float:
    """Make n images and run the stage on them, in a group or not; return its seconds."""
    raw = folder / "raw.npz"
    make(raw, n)
    forget(folder)
    paths = {f"--{name}": folder / f"{name}.npz" for name in ("train", "validation", "test")}
    paths |= {"--raw": raw, "--summary": folder / "data.json"}
    command = stage_command("prepare", Path(), paths)
    seconds = last_line([sys.executable, "-m", "benchmarks.timed", *before, *command])["seconds"]
    raw.unlink()
    return seconds


def train(folder: Path, steps: int, *flags: str, before: tuple[object, ...] = ()) -> dict:
    """Train some steps, in a group or not; return what benchmarks.large_training prints."""
    forget(folder)
    program = [sys.executable, "-m", "benchmarks.large_training", folder / "train.npz", steps]
    return last_line([*before, *program, *flags])


def measure(rounds: int, images: int, steps: int) -> Rows:
    """Return the rows of large.csv, measured anew; a UserError where no group can be made."""
    rows: Rows = []
    limited, used = group()
    enter = (*ENTER, limited)
    try:
        with tempfile.TemporaryDirectory(dir="data") as temporary:
            few, many = Path(temporary, "few"), Path(temporary, "many")
            few.mkdir()
            many.mkdir()
            seconds = {
                "few": prepare(few, FEW),
                "held": "",
                "mapped": prepare(many, images, *enter),
            }
            for number in range(1, rounds + 1):
                found = {
                    "few": train(few, steps, "--hold"),
                    "held": train(many, steps, "--hold"),
                    "mapped": train(many, steps, before=enter),
                }
                for candidate, result in found.items():
                    append(
                        "large",
                        rows,
                        round=number,
                        candidate=candidate,
                        images=FEW if candidate == "few" else images,
                        preparing=seconds.get(candidate, ""),
                        steps=steps,
                        **result,
                        group_peak=int(used.read_text()) if candidate == "mapped" else "",
                    )
    finally:
        limited.rmdir()
    return rows


def table(rows: Rows) -> str:
    """Return the table of large.csv, medians over the rounds.

    Raises
    ------
    UserError
        What is mapped gives other bytes than what is held in memory.
    """

    def median(candidate: str, column: str) -> float:
        return statistics.median(common.of(rows, candidate, column))

    lines = []
    for name, title in TITLES.items():
        images, steps = median(name, "images"), median(name, "steps")
        prepared = [row["preparing"] for row in rows if row["candidate"] == name]
        ratios = [a / b for a, b in common.pairs(rows, name, "few", "training")]
        lines.append(
            [
                title,
                f"{images:,.0f}",
                f"{float(prepared[0]) / images * 1e6:.0f}" if prepared[0] else "",
                f"{median(name, 'loading') / images * 1e6:.0f}",
                f"{median(name, 'training') / steps * 1e3:.1f}",
                common.ranged(ratios),
                f"{median(name, 'cpu') / steps * 1e3:.1f}",
                f"{median(name, 'own') / 1e6:,.0f}",
                f"{median(name, 'faults') / steps:.1f}",
            ]
        )
    titles = [
        "images",
        "made of MNIST's",
        "prepare, µs per image",
        "load and check, µs per image",
        "a step, ms",
        "against few, median (range)",
        "its CPU time, ms",
        "memory of its own, MB",
        "waits for the disk per step",
    ]
    peak = max(float(row["group_peak"]) for row in rows if row["group_peak"])
    same = len({(row["round"], row["digest"]) for row in rows if row["candidate"] != "few"})
    n = len(common.names(rows, "round"))
    if same != n:
        raise UserError("what is mapped gives other bytes than what is held in memory")
    return (
        f"{markdown(titles, lines)}\n\n"
        f"Steps timed: {steps:,.0f}, each of images from all over the file; n = {n} rounds. All of "
        f"them, in memory or mapped, give the same bytes. The group used {peak / 1e9:.2f} GB at "
        "most, the kernel's cache of files included."
    )


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("--images", type=count, default=2_000_000, metavar="N")
    parser.add_argument("--steps", type=count, default=750, metavar="N")
    arguments = parser.parse_args(argv)
    print(table(measure(arguments.rounds, arguments.images, arguments.steps)))


if __name__ == "__main__":
    raise SystemExit(run(main))
