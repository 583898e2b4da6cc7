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
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from cnn import (
    ahead,
    archive,
    data,
    engine,
    identity,
    meeting,
    model,
    processes,
    progress,
    resume,
    runtime,
    workers,
)
from cnn.augmentation import AugmentationParams
from cnn.errors import UserError, run
from cnn.files import write_csv, write_json
from cnn.params import CURE, load
from cnn.resume import Row, State
from cnn.runtime import keras, tf
from cnn.shares import ALONE, Share, on_gpus

# The state may be kept between two parts of an epoch: so many steps at first, then twice as many as
# long as they take a few seconds only. Workers must agree on it.
FIRST_PART, QUICK = 16, 5.0


def _power_of_two(shards: int) -> int:
    if shards not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError
    return shards


class TrainParams(model.NetworkParams, model.OptimizerParams, AugmentationParams):
    """Section `train` of params.yaml."""

    seed: int = Field(ge=0, le=2**32 - 1)
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=8192)
    # Not a Literal, which takes True for 1.
    shards: Annotated[int, AfterValidator(_power_of_two)] = Field(
        description="1, 2, 4, 8, 16, 32 or 64"
    )
    instruction_set: Literal["avx2", "native"]
    precision: Literal["float32", "mixed_bfloat16"]
    resume: bool = Field(description="true or false")


def train(
    params: TrainParams,
    training: tuple[tf.Tensor, tf.Tensor],
    validation: tuple[tf.Tensor, tf.Tensor],
    classes: int,
    keep: Callable[[list[Row]], None],
    state: State | None = None,
    keep_state: Callable[[State], None] | None = None,
    share: Share = ALONE,
    strategy: tf.distribute.MirroredStrategy | None = None,
) -> keras.Model:
    """Return the trained model; after each epoch `keep` is given the history so far.

    Now and then `keep_state` is given what it takes to go on from there; given such a `state`, the
    training goes on, to the same bytes. Each of several workers trains its `share`, with the same
    model as result; the first one says how far it is.

    Raises
    ------
    UserError
        The loss is no longer finite.
    """
    images, labels = training
    n = images.shape[0]
    steps = params.epochs * math.ceil(n / params.batch_size)
    with strategy.scope() if strategy else nullcontext():
        network = model.build(params, images.shape[1:], classes)
        model.compile_for(network, params, steps)
        take = engine.compiled_steps(
            network,
            images,
            labels,
            params.batch_size,
            params.shards,
            params.seed,
            params,
            share,
            strategy,
        )
    schedule = model.learning_rate_schedule(params, steps)
    validate = engine.compiled_validation(network, *validation)
    variables = [*network.variables, *network.optimizer.variables]
    shuffle = np.random.default_rng(params.seed)
    if state is None:
        state = State()
    else:
        for variable, value in zip(variables, state.variables, strict=True):
            variable.assign(value)
        for _ in range(state.epochs):
            shuffle.permutation(n)
    keeper = resume.Keeper(keep_state, variables)
    part = FIRST_PART
    mine = share.places(params.batch_size, params.shards)

    def done() -> int:
        return int(network.optimizer.iterations.value)

    with progress.shown(steps, done, silent=share.index > 0) as say:
        started, first = time.perf_counter(), state.epochs + 1
        for number in range(first, params.epochs + 1):
            order = shuffle.permutation(n)
            rest = order[state.start :]
            rest = rest[np.resize(mine, len(rest))]
            with ahead.reading(images, rest, np.count_nonzero(mine), done):
                while state.start < n:
                    began = time.perf_counter()
                    stop = min(state.start + part * params.batch_size, n)
                    sums = take(order, state.start, stop, state.loss_sum, state.correct)
                    state = state.within(stop, *sums)
                    keeper.offer(state, resume.EVERY)
                    taken = share.longest(time.perf_counter() - began)
                    part *= 2 if taken < QUICK else 1
            loss, accuracy = engine.means(state.loss_sum, state.correct, n)
            last_step = network.optimizer.iterations.numpy() - 1
            learning_rate = float(schedule if isinstance(schedule, float) else schedule(last_step))
            if number == params.epochs:
                # With averaging, the average becomes the model; without, nothing happens.
                network.optimizer.finalize_variable_values(network.trainable_variables)
            validation_loss, validation_accuracy = (float(value) for value in validate())
            if not math.isfinite(loss) or not math.isfinite(validation_loss):
                raise UserError(
                    f"the loss is {loss} in epoch {number} at learning rate {learning_rate:g}; "
                    "lower train.learning_rate in params.yaml and run 'dvc repro'"
                )
            row = {
                "epoch": number,
                "accuracy": accuracy,
                "loss": loss,
                "validation_accuracy": validation_accuracy,
                "validation_loss": validation_loss,
                "learning_rate": learning_rate,
            }
            state = State(number, history=[*state.history, row])
            keep(state.history)
            keeper.offer(state)
            elapsed = time.perf_counter() - started
            left = elapsed / (number - first + 1) * (params.epochs - number)
            say(
                f"epoch {number}/{params.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
                f"validation loss {validation_loss:.4f}  accuracy {validation_accuracy:.4f}  "
                f"{progress.seconds(elapsed)}, about {progress.seconds(left)} left"
            )
    return network


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
    if params.precision != "float32" and params.instruction_set == "avx2":
        raise UserError(
            f"{arguments.params}: train.precision is {params.precision}, which not every CPU with "
            f"AVX2 has; set train.instruction_set to native, or precision to float32; {CURE}"
        )
    runtime.warn_of_slow_bfloat16(params.precision)
    cluster = meeting.cluster_in(os.environ, params.shards)
    if len(cluster.addresses) > 1:  # TensorFlow's servers tell of all that they do
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = data.load(arguments.train), data.load(arguments.validation)
    data.check_alike(arguments.train, given[0], arguments.validation, given[1])

    runtime.start_tensorflow(params.seed, params.instruction_set, params.precision)
    environment = runtime.environment(params.instruction_set, params.precision)
    files = {"training data": arguments.train, "validation data": arguments.validation}
    this = identity.of_training(params, files, [__file__], environment)
    kept = resume.path_beside(arguments.model)
    state = resume.load(kept, this) if params.resume and cluster.index == 0 else None
    team, state = workers.assemble(cluster, this, state)

    classes = len(given[0].classes)
    training, validation = (
        (engine.in_tensorflow(part.images), engine.in_tensorflow(part.labels)) for part in given
    )
    del given  # numpy's own memory is free again

    def keep(history: list[Row]) -> None:
        if team.is_chief:
            rows = [{key: f"{value:.6g}" for key, value in row.items()} for row in history]
            write_csv(arguments.history, rows)

    keep_state = partial(resume.save, kept, this) if params.resume and team.is_chief else None
    if state:
        keep(state.history)
        if team.is_chief:
            print(f"going on after {state}", flush=True)
    several = params.instruction_set == "native" and team.size == 1
    strategy = on_gpus(params.shards) if several else None
    with processes.ending_promptly(), team.together():
        network = train(
            params, training, validation, classes, keep, state, keep_state, team.share, strategy
        )

    team.agree(network.get_weights())
    if team.is_chief:
        archive.save(model.in_float32(network), arguments.model)
        write_json(arguments.environment, environment)
        kept.unlink(missing_ok=True)
    team.part()


if __name__ == "__main__":
    raise SystemExit(run(main))
