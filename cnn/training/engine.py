"""Train by the kernels: the same bytes on every CPU, from any state of the training on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.base.program import cores
from cnn.data.sets import Data
from cnn.kernels import Kernels, Recipe, Weights, load, take_apart
from cnn.model import archive
from cnn.model.archive import Adam, CosineDecay
from cnn.model.network import Network
from cnn.training import checkpoint, prefetch
from cnn.training.checkpoint import Checkpointer, Row, State
from cnn.training.params import OptimizerParams, TrainParams
from cnn.training.progress import Progress, duration

CHUNK = 0.2  # seconds between two returns from C, for which Ctrl-C, the bar and checkpoints wait


class Workers(Protocol):
    """Several processes that train together, as one of them sees it (distributed/workers.py).

    index, size : of this process among them, 0 is the chief; how many there are.
    """

    index: int
    size: int

    def gather(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all, (size, ...), in their order; called by all, each with its own."""


def class_weights(
    params: TrainParams, labels: NDArray[np.int64], classes: int
) -> tuple[float, ...]:
    """Return by how much the images of each class count, () for equally.

    Balanced: n / (classes * images of the class), so that each class counts as much as another
    (King and Zeng 2001), as scikit-learn computes it.
    """
    if params.class_weights == "none":
        return ()
    counts = np.bincount(labels, minlength=classes)
    return tuple((len(labels) / (classes * np.maximum(counts, 1))).tolist())


def recipe_of(params: TrainParams, class_weights: tuple[float, ...] = ()) -> Recipe:
    """Return what section `train` says of a step, with the weights of `class_weights`."""
    given = params.model_dump() | {"class_weights": class_weights}
    return Recipe(**{name: given[name] for name in Recipe._fields if name in given})


def warmup_steps(params: OptimizerParams, steps: int) -> int:
    return round(steps * params.warmup_share)


def schedule_of(params: OptimizerParams, steps: int) -> float | CosineDecay:
    """Return the learning rate over `steps` steps as Keras describes it; see `learning_rates`."""
    peak, warmup = params.learning_rate, warmup_steps(params, steps)
    if params.schedule == "constant":
        return peak
    return CosineDecay(
        initial_learning_rate=peak / warmup if warmup else peak,  # 0 would waste the first step
        decay_steps=max(steps - warmup, 1),
        alpha=params.final_share,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def adam_of(params: OptimizerParams, network: Network, trained: Weights, steps: int) -> Adam:
    """Return the optimizer as Keras keeps it, with its state after `steps` steps."""
    momenta, velocities, averages = (
        [] if flat is None else take_apart(network, flat) for flat in trained[1:]
    )
    return Adam(
        learning_rate=schedule_of(params, steps),
        beta_1=params.beta_1,
        beta_2=params.beta_2,
        weight_decay=params.weight_decay,
        averaging=params.averaging,
        iterations=steps,
        momenta=momenta,
        velocities=velocities,
        averages=averages,
    )


def write(path: Path, params: TrainParams, network: Network, trained: Weights, n: int) -> None:
    """Write what was trained on n images as a Keras model, with its optimizer."""
    steps = params.epochs * math.ceil(n / params.batch_size)
    adam = adam_of(params, network, trained, steps)
    archive.write(path, network, take_apart(network, trained.weights), adam)


def learning_rates(
    params: OptimizerParams, steps: int, wanted: NDArray[np.int64], kernels: Kernels
) -> NDArray[np.float64]:
    """Return the learning rate of each `wanted` step of a training of `steps` steps.

    Cosine: linear from near 0 to the peak over the first `warmup_share` of the steps, then half a
    cosine down to `final_share` of the peak (Loshchilov and Hutter 2017, SGDR, without restarts).
    As Keras' CosineDecay, but for the cosine, which is the kernels' own: libm's differs by machine.
    """
    peak, warmup = params.learning_rate, warmup_steps(params, steps)
    if params.schedule == "constant":
        return np.full(len(wanted), peak)
    first = peak / max(warmup, 1)  # 0 would waste the first step
    rising = first + (peak - first) * wanted / max(warmup, 1)
    done = np.clip((wanted - warmup) / max(steps - warmup, 1), 0, 1)
    wave = 0.5 * (1 + kernels.cosine(done / 2).astype(np.float64))
    falling = peak * ((1 - params.final_share) * wave + params.final_share)
    return np.where(wanted < warmup, rising, falling)


def sizes_of_steps(
    params: OptimizerParams, rates: NDArray[np.float64], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return Adam's size of each wanted step: its rate, corrected for the moments' start at 0.

    Kingma and Ba 2015, section 2. Powers by multiplication: libm's differ from machine to machine.
    """

    def power(base: float, exponent: int) -> float:
        result = 1.0
        while exponent:
            if exponent % 2:
                result *= base
            base, exponent = base * base, exponent // 2
        return result

    corrections = [
        math.sqrt(1 - power(params.beta_2, step)) / (1 - power(params.beta_1, step))
        for step in (wanted + 1).tolist()
    ]
    return rates * corrections


def check_finite(kernels: Kernels, weights: Weights, epoch: int) -> None:
    """Raise UserError if a weight is not finite any more.

    Neither outputs nor losses show it: a maximum and a ReLU make 0 of NaN.
    """
    for flat in (weights.weights, weights.velocities):
        if kernels.first_not_finite(flat) is not None:
            raise UserError(
                f"the weights are no longer finite in epoch {epoch}; "
                "lower train.learning_rate in params.yaml and run 'dvc repro'"
            )


def validate(
    kernels: Kernels, network: Network, weights: NDArray[np.float32], data: Data
) -> dict[str, float]:
    """Return the accuracy and the mean loss on labelled images, as a `Row` has them."""
    probabilities, losses = kernels.predict(network, weights, data.images, data.labels, cores())
    correct = int((probabilities.argmax(axis=1) == data.labels).sum())
    return {
        "validation_accuracy": correct / len(losses),
        "validation_loss": math.fsum(losses.tolist()) / len(losses),
    }


def train_steps(
    kernels: Kernels,
    network: Network,
    recipe: Recipe,
    weights: Weights,
    data: Data,
    order: NDArray[np.int64],
    *,
    first_step: int,
    rates: NDArray[np.float32],
    alphas: NDArray[np.float32],
    workers: Workers | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Train some steps as `Kernels.train` does; with workers, of each step this one's shards.

    The shards of a worker are a branch of the tree in which gradients are added. Each worker adds
    the upper part of the tree itself, of the rows of all, so that the bytes are those of one.
    """
    if workers is None:
        return kernels.train(
            network, recipe, weights, data.images, data.labels, order, first_step, rates, alphas,
            threads=cores(),
        )  # fmt: skip
    losses, correct = np.zeros(len(rates), np.float32), 0
    for number in range(len(rates)):
        step = first_step + number
        batch = order[number * recipe.batch_size : (number + 1) * recipe.batch_size]
        row = kernels.shard_gradients(
            network, recipe, weights, data.images, data.labels, batch, step,
            index=workers.index, of=workers.size, threads=cores(),
        )  # fmt: skip
        rows = workers.gather(row)
        losses[number], right = kernels.apply(
            network, recipe, weights, step, rates[number], alphas[number], rows
        )
        correct += right
    return losses, correct


class Chunk(NamedTuple):
    """What some successive steps of an epoch gave.

    stop : how many of the epoch's images have been seen after them.
    loss_sum : of the images of these steps, each before its step.
    correct : how many of these images were classified correctly then.
    """

    stop: int
    loss_sum: float
    correct: int


def epoch(
    params: TrainParams,
    network: Network,
    weights: Weights,
    data: Data,
    order: NDArray[np.int64],
    *,
    first_step: int,
    total_steps: int,
    start: int = 0,
    workers: Workers | None = None,
) -> Iterator[Chunk]:
    """Train an epoch in chunks of a fraction of a second; `weights` change in place.

    How the epoch is divided into chunks changes no byte.

    Parameters
    ----------
    order : int64 (n,), in which the images are visited.
    first_step, total_steps : the number of the epoch's first step, and of steps, in the training.
    start : how many images have been seen, a multiple of the batch size.
    """
    kernels, size = load(), params.batch_size
    recipe = recipe_of(params, class_weights(params, data.labels, network.classes))
    on_disk = not prefetch.resident(data.images).all()
    chunk, requested, n = 1, start, len(order)
    while start < n:
        began, stop = time.perf_counter(), min(start + chunk * size, n)
        if on_disk:  # what is computed now, if it is the first chunk, and the next one
            ahead = stop + 2 * chunk * size
            prefetch.read_ahead(data.images, order[requested:ahead])
            requested = ahead
        steps = np.arange(first_step + start // size, first_step + math.ceil(stop / size))
        rates = learning_rates(params, total_steps, steps, kernels)
        losses, correct = train_steps(
            kernels,
            network,
            recipe,
            weights,
            data,
            order[start:stop],
            first_step=int(steps[0]),
            rates=rates.astype(np.float32),
            alphas=sizes_of_steps(params, rates, steps).astype(np.float32),
            workers=workers,
        )
        check_finite(kernels, weights, first_step // math.ceil(n / size) + 1)
        counts = np.minimum(size, stop - np.arange(start, stop, size))
        start = stop
        yield Chunk(stop, math.fsum((losses * counts).tolist()), correct)
        seconds = time.perf_counter() - began
        chunk = max(1, min(2 * chunk, int(chunk * CHUNK / seconds)))


def train(
    params: TrainParams,
    network: Network,
    training: Data,
    validation: Data,
    on_epoch: Callable[[list[Row]], None] = lambda history: None,
    *,
    state: State | None = None,
    save_state: Callable[[State], None] | None = None,
    workers: Workers | None = None,
) -> Weights:
    """Return the trained weights and what Adam keeps of them.

    Parameters
    ----------
    training, validation : images float32 (n, h, w, c) in [0, 1] and labels int64 (n,), n of its
        own each; (h, w, c) is `network.image_shape`.
    on_epoch : called after each epoch with the history, a row per finished epoch; returns nothing.
    state : where to resume, to the same bytes; None begins.
    save_state : called now and then with a state to resume from, whose variables must be copied or
        written before it returns nothing.
    workers : those that share each step; the chief alone reports progress.

    Raises
    ------
    UserError
        A weight or the loss is no longer finite.
    """
    kernels, n, state = load(), len(training.labels), state or State()
    epoch_steps = math.ceil(n / params.batch_size)
    total_steps = params.epochs * epoch_steps
    weights = kernels.initial_weights(network, params.seed, averaged=params.averaging > 0)
    variables = [flat for flat in weights if flat is not None]
    for flat, value in zip(variables, state.variables or variables, strict=True):
        flat[...] = value
    checkpointer = Checkpointer(save_state, variables)
    shuffle = np.random.default_rng(params.seed)
    for _ in range(state.epochs):
        shuffle.permutation(n)
    with Progress(total_steps, silent=workers is not None and workers.index > 0) as progress:
        began, resumed = time.perf_counter(), state.epochs
        for number in range(resumed + 1, params.epochs + 1):
            first_step = (number - 1) * epoch_steps
            for chunk in epoch(
                params,
                network,
                weights,
                training,
                shuffle.permutation(n),
                first_step=first_step,
                total_steps=total_steps,
                start=state.start,
                workers=workers,
            ):
                state = state._replace(
                    start=chunk.stop,
                    loss_sum=state.loss_sum + chunk.loss_sum,
                    correct=state.correct + chunk.correct,
                )
                checkpointer.maybe_save(state, checkpoint.INTERVAL)
                progress.update(first_step + math.ceil(chunk.stop / params.batch_size))
            if number == params.epochs and weights.averages is not None:
                weights.weights[...] = weights.averages  # the average becomes the model
            last_step = np.array([first_step + epoch_steps - 1])
            rate = float(learning_rates(params, total_steps, last_step, kernels)[0])
            row: Row = {
                "epoch": number,
                "accuracy": state.correct / n,
                "loss": state.loss_sum / n,
                **validate(kernels, network, weights.weights, validation),
                "learning_rate": rate,
            }
            for name in ("loss", "validation_loss"):
                if not math.isfinite(row[name]):
                    raise UserError(
                        f"the {name.replace('_', ' ')} is {row[name]} in epoch {number} at "
                        f"learning rate {rate:g}; lower train.learning_rate in params.yaml and "
                        "run 'dvc repro'"
                    )
            state = State(number, history=[*state.history, row])
            on_epoch(state.history)
            checkpointer.maybe_save(state)
            elapsed = time.perf_counter() - began
            left = elapsed / (number - resumed) * (params.epochs - number)
            progress.line(
                f"epoch {number}/{params.epochs}  loss {row['loss']:.4f}  accuracy "
                f"{row['accuracy']:.4f}  validation loss {row['validation_loss']:.4f}  accuracy "
                f"{row['validation_accuracy']:.4f}  {duration(elapsed)}, about "
                f"{duration(left)} left"
            )
    return weights
