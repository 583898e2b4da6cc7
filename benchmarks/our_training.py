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
from cnn import data, engine, kernels, runtime
from cnn.errors import run
from cnn.params import load
from stages.train import TrainParams


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
    training = data.Data(images, labels, classes)
    del images, labels
    test = data.load("data/prepared/test.npz")
    network = params.network(training.images.shape[1:], len(classes))
    if params.engine == "keras":
        runtime.start_tensorflow(params.seed, params.precision)
        from cnn import model
    began = time.perf_counter()
    if params.engine == "exact":
        weights = engine.train(params, network, training, validation).weights
    else:
        fitted = model.fit(params, network, training, validation)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if params.engine == "exact":
        probabilities, _ = kernels.load().predict(network, weights, test.images)
    else:
        probabilities = fitted.predict(test.images, batch_size=500, verbose=0)
    accuracy = float((probabilities.argmax(axis=1) == test.labels).mean())
    print(json.dumps({"training": seconds, "peak": peak, "accuracy": accuracy}))


if __name__ == "__main__":
    raise SystemExit(run(main))
