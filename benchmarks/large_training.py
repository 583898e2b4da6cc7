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

from cnn import ahead, data, engine, model, runtime
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
    runtime.start_tensorflow(params.seed, params.instruction_set, params.precision)
    images, labels = engine.in_tensorflow(images), engine.in_tensorflow(labels)
    network = model.build(params, images.shape[1:], len(classes))
    model.compile_for(network, params, arguments.steps)
    take = engine.compiled_steps(
        network, images, labels, params.batch_size, params.shards, params.seed, params
    )
    order = np.random.default_rng(params.seed).permutation(len(labels))
    warm, last = (steps * params.batch_size for steps in (WARM_UP, WARM_UP + arguments.steps))

    def done() -> int:
        return int(network.optimizer.iterations.value)

    with ahead.reading(images, order[:last], params.batch_size, done):
        take(order, 0, warm, 0.0, 0)
        began, busy = time.perf_counter(), time.process_time()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        take(order, warm, last, 0.0, 0)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
        training, cpu = time.perf_counter() - began, time.process_time() - busy
    digest = hashlib.sha256()
    for variable in [*network.variables, *network.optimizer.variables]:
        digest.update(np.asarray(variable).tobytes())
    own = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(
        json.dumps(
            {
                "loading": loading,
                "training": training,
                "cpu": cpu,
                "faults": faults,
                "own": 1024 * int(own[1]),
                "digest": digest.hexdigest()[:16],
            }
        )
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
