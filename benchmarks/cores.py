"""How much faster does training get with more cores, and what do more shards cost?

    python -m benchmarks.cores [--rounds 5]

Times a step of the default training with 2, 4, 8 and 16 shards on 1, 2, 4, ... cores of this
machine, every combination once a round, in a process of its own. The weights after the steps are
compared: the number of cores must not change a byte. Writes results/cores.csv.

    python -m benchmarks.cores --shards 4 --cores 2

times one combination and prints one JSON line: milliseconds, and a hash of the weights.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time

import numpy as np

from benchmarks.rows import Rows, append, count, last_line, markdown, names, parser, ranged
from cnn import data, engine, kernels, runtime
from cnn.errors import UserError, run
from cnn.params import load
from stages.train import TrainParams

SHARDS = (2, 4, 8, 16)
STEPS = 300
BASE = "4"


def milliseconds(shards: int, cores: int) -> tuple[float, str]:
    """Return the time of a step on `cores` threads, and the MD5 of the weights after 2 x STEPS."""
    params = load("params.yaml", "train", TrainParams).model_copy(update={"shards": shards})
    images, labels, classes = data.load("data/prepared/train.npz")
    network = params.network(images.shape[1:], len(classes))
    built, recipe = kernels.load(), engine.recipe_of(params)
    state = built.initial_weights(network, params.seed)
    order = np.random.default_rng(params.seed).permutation(len(labels))
    rates = np.full(STEPS, params.learning_rate, np.float32)
    for step in (0, STEPS):  # the first pass warms up
        places = order[step * params.batch_size : (step + STEPS) * params.batch_size]
        began = time.perf_counter()
        built.train(
            network, recipe, state, images, labels, places, step, rates, rates, threads=cores
        )
        seconds = time.perf_counter() - began
    return 1000 * seconds / STEPS, hashlib.md5(state.weights.tobytes()).hexdigest()


def measure(rounds: int) -> Rows:
    """Return the rows of cores.csv, measured anew.

    Raises
    ------
    UserError
        Another number of cores gave other weights.
    """
    cores = [2**power for power in range(runtime.cores().bit_length())]
    rows: Rows = []
    seen: dict[int, str] = {}
    for number in range(1, rounds + 1):
        for shards in SHARDS:
            for served in cores:
                command = [sys.executable, "-m", "benchmarks.cores", "--shards", shards]
                result = last_line([*command, "--cores", served])
                if seen.setdefault(shards, result["weights"]) != result["weights"]:
                    raise UserError(f"{shards} shards on {served} cores: other weights")
                append(
                    "cores",
                    rows,
                    round=number,
                    shards=shards,
                    cores=served,
                    milliseconds=round(result["milliseconds"], 2),
                )
    return rows


def table(rows: Rows) -> str:
    """Return the table of cores.csv: cost on one core, and how much faster with more."""
    taken = {
        (row["round"], row["shards"], row["cores"]): float(row["milliseconds"]) for row in rows
    }
    rounds, cores = names(rows, "round"), names(rows, "cores")
    lines = []
    for shards in names(rows, "shards"):
        alone = [taken[each, shards, "1"] for each in rounds]
        against = [taken[each, shards, "1"] / taken[each, BASE, "1"] for each in rounds]
        faster = [
            ranged([taken[each, shards, "1"] / taken[each, shards, served] for each in rounds])
            for served in cores[1:]
        ]
        lines.append([shards, f"{statistics.median(alone):.1f}", ranged(against), *faster])
    titles = ["shards", "ms a step on one core, median", f"against {BASE} shards"]
    titles += [f"times as fast on {served} cores" for served in cores[1:]]
    return (
        f"{markdown(titles, lines)}\n\nMedian and range, n = {len(rounds)} rounds. The weights are "
        "the same to the bit in every column."
    )


def main(argv: list[str] | None = None) -> None:
    reader = parser(__doc__)
    reader.add_argument("--shards", type=count, metavar="N", help="time one combination")
    reader.add_argument("--cores", type=count, default=1, metavar="N")
    arguments = reader.parse_args(argv)
    if arguments.shards:
        taken, weights = milliseconds(arguments.shards, arguments.cores)
        print(json.dumps({"milliseconds": taken, "weights": weights}))
    else:
        print(table(measure(arguments.rounds)))


if __name__ == "__main__":
    raise SystemExit(run(main))
