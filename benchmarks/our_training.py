"""Time the train stage's training alone, on the same data and with the same parameters.

    python -m benchmarks.our_training [KEY=VALUE ...]

KEY is one of section `train` of params.yaml. Prints one JSON line: seconds of training (with
validation, as Model.fit's), test accuracy.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.commands import write_params
from cnn import kernels
from cnn.base.params import load
from cnn.base.program import run
from cnn.data import sets
from cnn.model import keras_runtime
from cnn.training import engine
from cnn.training.params import TrainParams


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    given = dict(setting.split("=", 1) for setting in parser.parse_args(argv).settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        values = {key: YAML(typ="safe").load(value) for key, value in given.items()}
        write_params(path, train=values)
        params = load(path, "train", TrainParams)

    training = sets.load("data/prepared/train.npz")
    validation = sets.load("data/prepared/validation.npz")
    test = sets.load("data/prepared/test.npz")
    network = params.network(training.images.shape[1:], len(training.classes))
    if params.engine == "keras":
        keras_runtime.start_keras(params.seed, params.precision)
        from cnn.training import keras_engine
    began = time.perf_counter()
    if params.engine == "exact":
        trained = engine.train(params, network, training, validation)
    else:
        fitted = keras_engine.fit(params, network, training, validation)
    seconds = time.perf_counter() - began
    if params.engine == "exact":
        probabilities, _ = kernels.load().predict(network, trained.weights, test.images)
    else:
        probabilities = fitted.predict(test.images, batch_size=500, verbose=0)
    accuracy = float((probabilities.argmax(axis=1) == test.labels).mean())
    print(json.dumps({"training": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    raise SystemExit(run(main))
