"""Time the train stage's training alone, on the same data and with the same parameters.

    python -m benchmarks.our_training [KEY=VALUE ...] [--copies N]

KEY is one of section `train` of params.yaml. Prints one JSON line: seconds of training (with
validation, as Model.fit's), peak memory in bytes, test accuracy. `--copies N` trains on N times the
images, each copy shifted by another pixel, to show how cost grows.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from benchmarks.rows import write_params
from cnn import data, runtime
from cnn.engine import in_tensorflow
from cnn.errors import run
from cnn.params import load
from stages.train import TrainParams, train


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--copies", type=int, default=1)
    arguments = parser.parse_args(argv)
    given = dict(setting.split("=", 1) for setting in arguments.settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        write_params(
            path, train={key: YAML(typ="safe").load(value) for key, value in given.items()}
        )
        params = load(path, "train", TrainParams)

    images, labels, classes = data.load("data/prepared/train.npz")
    validation = data.load("data/prepared/validation.npz")
    if arguments.copies > 1:
        n = len(images)
        more = np.empty((n * arguments.copies, *images.shape[1:]), np.float32)
        for copy in range(arguments.copies):
            more[copy * n : (copy + 1) * n] = np.roll(images, copy, axis=2)
        images, labels = more, np.tile(labels, arguments.copies)
        del more
    runtime.start_tensorflow(params.seed, params.instruction_set, params.precision)
    training = in_tensorflow(images), in_tensorflow(labels)
    validation = in_tensorflow(validation.images), in_tensorflow(validation.labels)
    del images, labels
    began = time.perf_counter()
    network = train(params, training, validation, len(classes), lambda history: None)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    images, labels, _ = data.load("data/prepared/test.npz")
    predicted = network.predict(images, batch_size=500, verbose=0).argmax(axis=1)
    accuracy = float((predicted == labels).mean())
    print(json.dumps({"training": seconds, "peak": peak, "accuracy": accuracy}))


if __name__ == "__main__":
    raise SystemExit(run(main))
