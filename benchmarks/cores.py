"""How much faster does training get with more cores, and what do more shards cost?

    python -m benchmarks.cores [--rounds 5]

Times a step of the default training with 2, 4, 8 and 16 shards on 1, 2, 4, ... cores of this
machine. The weights after the steps are compared: the number of cores must not change a byte.
Writes results/cores.csv.
"""

import hashlib
import statistics
import time

import numpy as np

from benchmarks import harness
from benchmarks.harness import Candidate, Rows, markdown, names, of, ranged
from cnn import kernels
from cnn.base.errors import UserError
from cnn.base.params import load
from cnn.base.program import cores as available_cores
from cnn.base.program import run
from cnn.data import sets
from cnn.training import engine
from cnn.training.params import TrainParams

SHARDS = (2, 4, 8, 16)
STEPS = 300
BASE = "4"


def candidate(data: sets.Data, shards: int, cores: int, seen: dict[int, str]) -> Candidate:
    """Return `shards` on as many threads as `cores`; `seen` has their weights' MD5 by shards.

    It raises a UserError where another number of cores gave other weights.
    """
    params = load("params.yaml", "train", TrainParams).model_copy(update={"shards": shards})
    network = params.network(data.images.shape[1:], len(data.classes))
    built, recipe = kernels.load(), engine.recipe_of(params)
    order = np.random.default_rng(params.seed).permutation(len(data.labels))
    rates = np.full(STEPS, params.learning_rate, np.float32)

    def measured(_: int) -> dict[str, object]:
        state = built.initial_weights(network, params.seed)
        for step in (0, STEPS):  # the first pass warms up
            places = order[step * params.batch_size : (step + STEPS) * params.batch_size]
            began = time.perf_counter()
            built.train(
                network, recipe, state, *data[:2], places, step, rates, rates, threads=cores
            )
            seconds = time.perf_counter() - began
        digest = hashlib.md5(state.weights.tobytes()).hexdigest()
        if seen.setdefault(shards, digest) != digest:
            raise UserError(f"{shards} shards on {cores} cores: other weights")
        return {"milliseconds": round(1000 * seconds / STEPS, 2)}

    return {"shards": shards, "cores": cores}, measured


def table(rows: Rows) -> str:
    """Return the table of cores.csv: cost on one core, and how much faster with more."""
    rows = [row | {"candidate": f"{row['shards']} on {row['cores']}"} for row in rows]
    cores = names(rows, "cores")[1:]

    def ratio(name: str, base: str) -> str:
        return ranged(harness.ratios(rows, name, base, "milliseconds"))

    lines = []
    for shards in names(rows, "shards"):
        alone = f"{shards} on 1"
        median = statistics.median(of(rows, alone, "milliseconds"))
        faster = [ratio(alone, f"{shards} on {served}") for served in cores]
        lines.append([shards, f"{median:.1f}", ratio(alone, f"{BASE} on 1"), *faster])
    titles = ["shards", "ms a step on one core, median", f"against {BASE} shards"]
    titles += [f"times as fast on {served} cores" for served in cores]
    return (
        f"{markdown(titles, lines)}\n\nMedian and range, n = {len(names(rows, 'round'))} rounds. "
        "In each row the weights are the same to the bit on one core and on two."
    )


def main(argv: list[str] | None = None) -> None:
    arguments = harness.parser(__doc__).parse_args(argv)
    data, seen = sets.load("data/prepared/train.npz"), {}
    cores = [2**power for power in range(available_cores().bit_length())]
    candidates = [candidate(data, shards, served, seen) for shards in SHARDS for served in cores]
    print(table(harness.measure("cores", candidates, arguments.rounds, arguments.only)))


if __name__ == "__main__":
    raise SystemExit(run(main))
