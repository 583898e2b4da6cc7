"""Run the pipeline, its training cut short, in this very process.

    python -m benchmarks.emulated FOLDER [--steps 6] [--images 1000]

For `benchmarks.machines`, which runs it on emulated CPUs. Reads what `make repro` leaves: the
published data, models/cnn.keras and its learning curves. Writes into FOLDER, by the commands of
dvc.yaml, what the stages write: prepare on all images; train, with the parameters of params.yaml
but a few steps only, the last of them on a short batch; evaluate and report of the finished model,
on the first test images.
"""

import argparse
import multiprocessing.process
import os
import platform
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from benchmarks.commands import RAW, stage_command, write_params
from benchmarks.harness import ROOT, count
from cnn import kernels
from cnn.base.errors import UserError
from cnn.base.params import read_section
from cnn.base.program import run
from cnn.data import sets

MODEL = Path("models/cnn.keras")
HISTORY = Path("reports/train/training.csv")
FEW = Path("few")  # the folder of the images that are trained on, validated with and tested with


def stay_in_this_process() -> None:
    """Let no stage start a process: it would run on the machine's own CPU, not on the emulated."""

    def start(process: multiprocessing.process.BaseProcess) -> None:
        raise RuntimeError(f"{process.name} would not run on the emulated CPU")

    multiprocessing.process.BaseProcess.start = start


def cpu() -> str:
    """Return what the kernels and numpy's OpenBLAS take this CPU for; they ask the CPU itself."""
    import threadpoolctl

    libraries = threadpoolctl.threadpool_info()
    blas = {each["architecture"] for each in libraries if each["user_api"] == "blas"}
    level = list(kernels.build.levels())[kernels.widest()]
    return (
        f"{platform.machine()}, Python {platform.python_version()}: kernels '{level}', OpenBLAS "
        f"as on {', '.join(sorted(blas))}"
    )


def first(source: Path, n: int) -> Path:
    """Write the first n images of a set into `FEW`; return the path."""
    images, labels, classes = sets.load(source)
    path = FEW / source.name
    sets.save(path, sets.Data(images[:n], labels[:n], classes))
    return path


def stage(name: str, paths: Mapping[str, Path] = {}) -> None:
    """Run a stage's command in dvc.yaml in this process, with other paths, {flag: path}."""
    words = stage_command(name, Path(), paths)
    import_module(words[2]).main(words[3:])  # after python -m


def run_stages(folder: Path, steps: int, images: int) -> None:
    """Run prepare, train, evaluate and report in `folder`, which holds their params.yaml."""
    os.chdir(folder)
    batch = read_section("params.yaml", "train")["batch_size"]
    sizes = {
        "train": steps * batch - batch // 3,  # the last batch is short, with a shard left empty
        "validation": max(1, images // 10),
        "test": images,
    }
    stage("prepare", {"--raw": ROOT / RAW})
    few = {name: first(Path("data/prepared", f"{name}.npz"), n) for name, n in sizes.items()}
    stage("train", {"--train": few["train"], "--validation": few["validation"]})
    trained = {"--model": ROOT / MODEL, "--history": ROOT / HISTORY}
    read = {f"--{name}": few[name] for name in ("test", "validation")}
    stage("evaluate", read | trained)
    stage("report")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="written into")
    parser.add_argument("--steps", type=count, default=6, metavar="N", help="of the training")
    parser.add_argument("--images", type=count, default=1000, metavar="N", help="of the test")
    arguments = parser.parse_args(argv)
    for path in (RAW, MODEL, HISTORY):
        if not path.is_file():
            raise UserError(f"{path}: is missing; run 'make repro'")
    stay_in_this_process()
    write_params(arguments.folder / "params.yaml", train={"epochs": 1})
    run_stages(arguments.folder, arguments.steps, arguments.images)
    print(cpu())


if __name__ == "__main__":
    raise SystemExit(run(main))
