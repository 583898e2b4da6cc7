"""Time some steps of the train stage on prepared images, mapped or held in memory.

    python -m benchmarks.large_training TRAIN_NPZ STEPS [--hold]

Prints one JSON line: seconds to load and check the file; of the steps, after a few to warm up,
seconds, CPU seconds and page faults that had to wait for the disk; bytes of memory that are the
process' own and not a file's; a digest of the trained variables.
"""

import argparse
import hashlib
import json
import re
import resource
import time
from pathlib import Path

import numpy as np

from cnn import data, engine, kernels
from cnn.errors import run
from cnn.params import load
from stages.train import TrainParams

WARM_UP = 50  # steps


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--hold", action="store_true", help="copy the images into memory first")
    arguments = parser.parse_args(argv)
    params = load(Path("params.yaml"), "train", TrainParams)

    began = time.perf_counter()
    images, labels, classes = data.load(arguments.train)
    loading = time.perf_counter() - began
    if arguments.hold:
        images = np.array(images)
    training = data.Data(images, labels, classes)
    network = params.network(training.images.shape[1:], len(classes))
    weights = kernels.load().initial_weights(network, params.seed)
    order = np.random.default_rng(params.seed).permutation(len(labels))

    def train(first: int, last: int) -> None:
        places = order[first * params.batch_size : last * params.batch_size]
        for _ in engine.epoch(params, network, weights, training, places, first, last):
            pass

    train(0, WARM_UP)
    began, busy = time.perf_counter(), time.process_time()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    train(WARM_UP, WARM_UP + arguments.steps)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    digest = hashlib.sha256()
    for array in weights[:3]:
        digest.update(array.tobytes())
    own = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(
        json.dumps(
            {
                "loading": loading,
                "training": seconds,
                "cpu": cpu,
                "faults": faults,
                "own": 1024 * int(own[1]),
                "digest": digest.hexdigest()[:16],
            }
        )
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
