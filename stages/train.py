"""Train the CNN.

    python -m stages.train --train data/prepared/train.npz \
        --validation data/prepared/validation.npz --model models/cnn.keras \
        --history reports/train/training.csv --environment reports/train/environment.json

Reads two npz of `images` float32 (n, h, w, c) in [0, 1], `labels` int64 (n,) and `classes` str
(k,). Writes the model with its optimizer, so that it can be trained further; one row per epoch of
accuracy and loss (training: the mean over the epoch's steps as they were taken; validation: after
the epoch) and the learning rate of the epoch's last step; and what the bytes of all this depend on.
The rows are written after each epoch, all of them or none, so that a run can be watched.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from cnn import kernels
from cnn.base import program
from cnn.base.errors import UserError
from cnn.base.files import write_csv, write_json
from cnn.base.params import CORRECT, load
from cnn.base.program import run
from cnn.data import sets
from cnn.data.sets import Data
from cnn.model import keras_runtime
from cnn.model.network import Network
from cnn.training import checkpoint, engine, fingerprint
from cnn.training.checkpoint import Row
from cnn.training.params import TrainParams
from distributed import workers


def train_exactly(
    params: TrainParams,
    network: Network,
    data: tuple[Data, Data],
    arguments: argparse.Namespace,
    cluster: workers.Cluster,
) -> None:
    """Train by the kernels, alone or as one of several workers; the chief writes the model.

    data : for training, and for validation.
    """
    environment = fingerprint.environment("exact")
    files = {"training data": arguments.train, "validation data": arguments.validation}
    inputs = fingerprint.of_training(params, files, __file__, environment)
    path, chief = checkpoint.checkpoint_path(arguments.model), cluster.index == 0
    resumable = params.resume and chief
    team, state = workers.meet(
        cluster, inputs, checkpoint.load(path, inputs) if resumable else None
    )
    on_epoch = partial(write_history, arguments.history) if chief else lambda history: None
    if state and chief:
        on_epoch(state.history)
        print(f"going on after {state}", flush=True)
    trained = engine.train(
        params,
        network,
        *data,
        on_epoch,
        state=state,
        save_state=partial(checkpoint.save, path, inputs) if resumable else None,
        workers=team,
    )
    if team:
        team.agree(trained.weights)
    if chief:
        engine.write(arguments.model, params, network, trained, len(data[0].labels))
        write_json(arguments.environment, environment)
        path.unlink(missing_ok=True)


def train_with_keras(
    params: TrainParams, network: Network, data: tuple[Data, Data], arguments: argparse.Namespace
) -> None:
    """Train by Keras' own `fit`, and write the model as Keras does."""
    keras_runtime.start_keras(params.seed, params.precision)
    from cnn.training import keras_engine

    with program.ended_at_once():
        trained = keras_engine.fit(
            params, network, *data, partial(write_history, arguments.history)
        )
    keras_engine.save(arguments.model, trained)
    write_json(arguments.environment, fingerprint.environment("keras", params.precision))


def write_history(path: Path, history: list[Row]) -> None:
    write_csv(path, [{key: f"{value:.6g}" for key, value in row.items()} for row in history])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default="params.yaml", metavar="YAML")
    parser.add_argument("--train", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--validation", type=Path, required=True, metavar="NPZ", help="read")
    parser.add_argument("--model", type=Path, required=True, metavar="KERAS", help="written")
    parser.add_argument("--history", type=Path, required=True, metavar="CSV", help="written")
    parser.add_argument("--environment", type=Path, required=True, metavar="JSON", help="written")
    arguments = parser.parse_args(argv)
    params = load(arguments.params, "train", TrainParams)
    if params.precision != "float32" and params.engine == "exact":
        raise UserError(
            f"{arguments.params}: train.precision is {params.precision}, which the engine exact "
            f"does not compute; set train.engine to keras, or train.precision to float32; {CORRECT}"
        )
    cluster = workers.cluster_in(os.environ, params.shards)
    data = sets.load(arguments.train), sets.load(arguments.validation)
    sets.check_alike(arguments.train, data[0], arguments.validation, data[1])
    try:
        network = params.network(data[0].images.shape[1:], len(data[0].classes))
    except UserError as error:
        raise UserError(f"{arguments.params}: {error}") from None
    if params.engine == "exact":
        kernels.load()  # refused, if it is, before anything is started
        train_exactly(params, network, data, arguments, cluster)
    elif len(cluster.addresses) > 1:
        raise UserError(
            f"{workers.VARIABLE} names {len(cluster.addresses)} workers, which the engine keras "
            f"does not share the training with; unset it, or set train.engine to exact; {CORRECT}"
        )
    else:
        train_with_keras(params, network, data, arguments)


if __name__ == "__main__":
    raise SystemExit(run(main))
