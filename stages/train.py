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
import math
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cnn import (
    archive,
    data,
    engine,
    identity,
    kernels,
    meeting,
    processes,
    resume,
    runtime,
    workers,
)
from cnn.data import Data
from cnn.engine import AugmentationParams, NetworkParams, OptimizerParams
from cnn.errors import UserError, run
from cnn.files import write_csv, write_json
from cnn.network import Network
from cnn.params import CURE, load
from cnn.resume import Row


def _power_of_two(shards: int) -> int:
    if shards not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError
    return shards


class TrainParams(NetworkParams, OptimizerParams, AugmentationParams):
    """Section `train` of params.yaml."""

    engine: Literal["exact", "keras"]
    precision: Literal["float32", "mixed_bfloat16"]
    seed: int = Field(ge=0, le=2**32 - 1)
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=8192)
    # Not a Literal, which takes True for 1.
    shards: Annotated[int, AfterValidator(_power_of_two)] = Field(
        description="1, 2, 4, 8, 16, 32 or 64"
    )
    resume: bool = Field(description="true or false")


def train_exactly(
    params: TrainParams,
    network: Network,
    given: tuple[Data, Data],
    arguments: argparse.Namespace,
    cluster: meeting.Cluster,
) -> None:
    """Train by the kernels, on this machine or as one of several, and write the model."""
    environment = runtime.environment("exact")
    files = {"training data": arguments.train, "validation data": arguments.validation}
    fingerprint = identity.of_training(params, files, [__file__], environment)
    state_path = resume.path_beside(arguments.model)
    chief = cluster.index == 0
    state = resume.load(state_path, fingerprint) if params.resume and chief else None
    team, state = workers.assemble(cluster, fingerprint, state)

    keep = partial(write_history, arguments.history) if chief else lambda history: None
    keep_state = partial(resume.save, state_path, fingerprint) if params.resume and chief else None
    if state:
        keep(state.history)
        if chief:
            print(f"going on after {state}", flush=True)
    with workers.together(team):
        trained = engine.train(params, network, *given, keep, state, keep_state, team)
    if team:
        team.agree([trained.weights])
    if chief:
        steps = params.epochs * math.ceil(len(given[0].labels) / params.batch_size)
        adam = engine.adam_of(params, network, trained, steps)
        archive.write(arguments.model, network, kernels.take_apart(network, trained.weights), adam)
        write_json(arguments.environment, environment)
        state_path.unlink(missing_ok=True)
    if team:
        team.part()


def train_with_keras(
    params: TrainParams,
    network: Network,
    given: tuple[Data, Data],
    arguments: argparse.Namespace,
) -> None:
    """Train by Keras' own `fit`, and write the model as Keras does."""
    runtime.start_tensorflow(params.seed, params.precision)
    from cnn import model
    from cnn.files import replacing

    with processes.ended_at_once():
        trained = model.fit(params, network, *given, partial(write_history, arguments.history))
    with replacing(arguments.model) as temporary:
        named = temporary.with_name(f"{temporary.name}.keras")  # Keras insists on the ending
        try:
            trained.save(named)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    write_json(arguments.environment, runtime.environment("keras", params.precision))


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
            f"does not compute; set train.engine to keras, or train.precision to float32; {CURE}"
        )
    cluster = meeting.cluster_in(os.environ, params.shards)
    given = data.load(arguments.train), data.load(arguments.validation)
    data.check_alike(arguments.train, given[0], arguments.validation, given[1])
    try:
        network = params.network(given[0].images.shape[1:], len(given[0].classes))
    except UserError as error:
        raise UserError(f"{arguments.params}: {error}") from None
    if params.engine == "exact":
        kernels.load()  # refused, if it is, before anything is started
        train_exactly(params, network, given, arguments, cluster)
    elif len(cluster.addresses) > 1:
        raise UserError(
            f"{meeting.VARIABLE} names {len(cluster.addresses)} workers, which the engine keras "
            f"does not share the training with; unset it, or set train.engine to exact; {CURE}"
        )
    else:
        train_with_keras(params, network, given, arguments)


if __name__ == "__main__":
    raise SystemExit(run(main))
