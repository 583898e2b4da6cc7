"""What does the guarantee of the same bytes cost, here and elsewhere?

    python -m benchmarks.guarantee [--rounds 5] [--steps 100]

The same seven layers on the same batches of 64: ours; Keras' `fit` and PyTorch, each without and
with deterministic operations; RepDL. Each is a process of its own, in turn in every round. It warms
up, by one pass over the batches (RepDL by two steps), and then times as many steps as all others.
Ratios are taken round by round.

Writes results/guarantee.csv. Needs `make repro`'s data. What is missing in `.venv-torch` (see
benchmarks/README.md) is left out. `--train NAME` times one of Keras' or ours in this process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks import cores
from benchmarks.rows import (
    Rows,
    append,
    count,
    last_line,
    markdown,
    names,
    of,
    pairs,
    parser,
    ranged,
)
from benchmarks.training import TORCH
from cnn import data, model, runtime
from cnn.errors import run
from cnn.params import load
from cnn.runtime import keras, tf
from stages.train import TrainParams

OURS, FIT, FIT_DETERMINISTIC = "ours", "Keras fit", "Keras fit, deterministic"
TORCHES, REPDL = ("PyTorch", "PyTorch, deterministic"), "RepDL"
SAME = "the same machine and number of threads"
PROMISES = {  # {candidate: where it promises the same bytes}
    OURS: "every x86-64 CPU with AVX2, any number of cores",
    FIT: "nothing",
    FIT_DETERMINISTIC: SAME,
    TORCHES[0]: "nothing",
    TORCHES[1]: SAME,
    REPDL: "every device",
}


def start(name: str, params: TrainParams) -> None:
    """Start TensorFlow as the stage does, or as one does who uses Keras' `fit`."""
    if name == OURS:
        runtime.start_tensorflow(params.seed, params.instruction_set, params.precision)
        return
    keras.utils.set_random_seed(params.seed)
    if name == FIT_DETERMINISTIC:
        tf.config.experimental.enable_op_determinism()


def second_pass(
    name: str,
    params: TrainParams,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
) -> float:
    """Return the seconds that the second pass over images (n, h, w, c) and labels (n,) takes."""
    if name == OURS:
        return cores.second_pass(params, images, labels, classes)[0]
    network = model.build(params, images.shape[1:], classes)
    model.compile_for(network, params, steps=2 * -(-len(images) // params.batch_size))
    times = []

    def stamp(*_: object) -> None:
        times.append(time.perf_counter())

    watch = keras.callbacks.LambdaCallback(on_epoch_begin=stamp, on_epoch_end=stamp)
    network.fit(
        images, labels, batch_size=params.batch_size, epochs=2, verbose=0, callbacks=[watch]
    )
    return times[3] - times[2]


def candidates(steps: int) -> dict[str, list[object]]:
    """Return {name: command} of what runs in a round; what is not installed is told."""
    here = [sys.executable, "-m", "benchmarks.guarantee", "--steps", steps, "--train"]
    found = {name: [*here, name] for name in (OURS, FIT, FIT_DETERMINISTIC)}
    if TORCH.exists():
        script = [TORCH, "benchmarks/pytorch_training.py", "--steps", steps]
        found |= {TORCHES[0]: script, TORCHES[1]: [*script, "--deterministic"]}
        asked = subprocess.run([TORCH, "-c", "import repdl"], capture_output=True, check=False)
        if not asked.returncode:
            found[REPDL] = [TORCH, "benchmarks/repdl_training.py", "--steps", steps]
    for name in PROMISES:
        if name not in found:
            print(f"note: {name} is not in .venv-torch, and is left out", file=sys.stderr)
    return found


def measure(rounds: int, steps: int) -> Rows:
    """Return the rows of guarantee.csv, measured anew."""
    rows: Rows = []
    commands = candidates(steps)
    for number in range(1, rounds + 1):
        for name, command in commands.items():
            result = last_line(command)
            append(
                "guarantee",
                rows,
                round=number,
                candidate=name,
                milliseconds=round(result["milliseconds"], 2),
                steps=result["steps"],
            )
    return rows


def table(rows: Rows) -> str:
    """Return the table of guarantee.csv, with a line for what was not installed."""
    lines = []
    for name in names(rows):
        ratios = [a / b for a, b in pairs(rows, name, OURS, "milliseconds")]
        milliseconds = statistics.median(of(rows, name, "milliseconds"))
        lines.append([name, PROMISES[name], f"{milliseconds:.1f}", ranged(ratios)])
    titles = ["", "promises the same bytes on", "milliseconds a step, median"]
    missing = [name for name in PROMISES if name not in names(rows)]
    return (
        markdown([*titles, "against ours, median (range)"], lines)
        + f"\n\nSteps timed: {' or '.join(names(rows, 'steps'))}; "
        + f"n = {len(names(rows, 'round'))} rounds."
        + (f" Not installed, and left out: {'; '.join(missing)}." if missing else "")
    )


def main(argv: list[str] | None = None) -> None:
    reader = parser(__doc__)
    reader.add_argument("--steps", type=count, default=100, metavar="N")
    reader.add_argument("--train", choices=(OURS, FIT, FIT_DETERMINISTIC), help="this one, here")
    arguments = reader.parse_args(argv)
    name, steps = arguments.train, arguments.steps
    if not name:
        print(table(measure(arguments.rounds, steps)))
        return
    params = load("params.yaml", "train", TrainParams)
    images, labels, classes = data.load("data/prepared/train.npz")
    n = steps * params.batch_size
    start(name, params)
    seconds = second_pass(name, params, images[:n], labels[:n], len(classes))
    print(json.dumps({"milliseconds": 1000 * seconds / steps, "steps": steps}))


if __name__ == "__main__":
    raise SystemExit(run(main))
