"""Train by the kernels: the same bytes on every CPU, from any state of the training on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cnn import ahead, progress, resume
from cnn.archive import Adam, CosineDecay
from cnn.data import Data
from cnn.errors import UserError
from cnn.kernels import Kernels, Recipe, Weights, load, take_apart
from cnn.network import (
    LARGEST_KERNEL,
    MOST_CONVOLUTIONS,
    MOST_FILTERS,
    MOST_HIDDEN,
    MOST_UNITS,
    Network,
    network_of,
)
from cnn.params import Section
from cnn.resume import Row, State
from cnn.runtime import cores

CHUNK = 0.2  # seconds between two returns from C: Ctrl-C, the bar and the kept state wait for one


class NetworkParams(Section):
    """The network; a part of section `train`."""

    filters: tuple[Annotated[int, Field(ge=1, le=MOST_FILTERS)], ...] = Field(
        strict=False,  # YAML has lists, not tuples
        min_length=1,
        max_length=MOST_CONVOLUTIONS,
    )
    kernel_size: int = Field(ge=1, le=LARGEST_KERNEL)
    dense_units: tuple[Annotated[int, Field(ge=1, le=MOST_UNITS)], ...] = Field(
        strict=False, max_length=MOST_HIDDEN
    )
    dropout: float = Field(ge=0, lt=1)

    def network(self, image_shape: tuple[int, int, int], classes: int) -> Network:
        """Return the network for such images; a UserError where it leaves nothing of them."""
        return network_of(
            self.filters, self.kernel_size, self.dense_units, self.dropout, image_shape, classes
        )


class OptimizerParams(Section):
    """Adam, as both engines take it; a part of section `train`."""

    learning_rate: float = Field(gt=0, le=1)
    schedule: Literal["constant", "cosine"]
    warmup_share: float = Field(ge=0, lt=1)
    final_share: float = Field(ge=0, le=1)
    beta_1: float = Field(ge=0, lt=1)
    beta_2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    averaging: float = Field(ge=0, lt=1)


class AugmentationParams(Section):
    """How training images are moved, each by amounts of its own; a part of section `train`."""

    shift: float = Field(ge=0, le=14)
    rotation: float = Field(ge=0, le=180)
    shear: float = Field(ge=0, le=1)
    scale: float = Field(ge=0, le=1)
    fill: float = Field(ge=0, le=1)

    @property
    def moves(self) -> bool:
        return any((self.shift, self.rotation, self.shear, self.scale))


def recipe_of(params: Section, **others: int) -> Recipe:
    """Return what section `train` says of a step; a field that it lacks comes from `others`."""
    given = params.model_dump() | others
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
        schedule_of(params, steps),
        params.beta_1,
        params.beta_2,
        params.weight_decay,
        params.averaging,
        steps,
        momenta,
        velocities,
        averages,
    )


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


def check_finite(kernels: Kernels, network: Network, state: Weights, where: str) -> None:
    """Raise UserError if a weight is no number any more.

    Neither outputs nor losses tell: a maximum and a ReLU make 0 of NaN.
    """
    if any(
        kernels.first_not_finite(flat) is not None for flat in (state.weights, state.velocities)
    ):
        raise UserError(
            f"the weights are no longer finite in {where}; "
            "lower train.learning_rate in params.yaml and run 'dvc repro'"
        )


def validate(
    kernels: Kernels, network: Network, weights: NDArray[np.float32], data: Data
) -> dict[str, float]:
    """Return the accuracy and the mean loss on labelled images, as a row has them."""
    probabilities, losses = kernels.predict(network, weights, data.images, data.labels, cores())
    correct = int((probabilities.argmax(axis=1) == data.labels).sum())
    return {
        "validation_accuracy": correct / len(losses),
        "validation_loss": math.fsum(losses.tolist()) / len(losses),
    }


class Chunk(NamedTuple):
    """What some steps of an epoch gave.

    stop : how many of the epoch's images have been seen.
    loss_sum, correct : of the images of these steps, as they were before each step.
    """

    stop: int
    loss_sum: float
    correct: int


def epoch(
    params: Section,
    network: Network,
    weights: Weights,
    data: Data,
    order: NDArray[np.int64],
    before: int,
    steps: int,
    start: int = 0,
    team: object | None = None,
) -> Iterator[Chunk]:
    """Train the steps of an epoch in chunks of a fraction of a second; `weights` change in place.

    Where an epoch is parted changes no byte.

    Parameters
    ----------
    order : int64 (n,), in which the images are taken.
    before, steps : of the whole training: those before this epoch, and all.
    start : how many images have been seen, a multiple of the batch size.
    team : of several workers (cnn/workers.py), each of which computes its part of every step.
    """
    kernels, recipe, size = load(), recipe_of(params), params.batch_size
    room = None if team else np.empty(recipe.shards * len(weights.weights), np.float32)
    on_disk = not ahead.resident(data.images).all()
    chunk, asked, n = 1, start, len(order)
    while start < n:
        began, stop = time.perf_counter(), min(start + chunk * size, n)
        if on_disk:  # what is computed now, if it is the first chunk, and the next one
            ahead.ask(data.images, order[asked : (asked := stop + 2 * chunk * size)])
        wanted = np.arange(before + start // size, before + math.ceil(stop / size))
        rates = learning_rates(params, steps, wanted, kernels)
        alphas = sizes_of_steps(params, rates, wanted)
        losses, correct = (team or kernels).train(
            network,
            recipe,
            weights,
            data.images,
            data.labels,
            order[start:stop],
            int(wanted[0]),
            rates.astype(np.float32),
            alphas.astype(np.float32),
            cores(),
            room,
        )
        check_finite(kernels, network, weights, f"epoch {before // math.ceil(n / size) + 1}")
        counts = np.minimum(size, stop - np.arange(start, stop, size))
        start = stop
        yield Chunk(stop, math.fsum((losses * counts).tolist()), correct)
        taken = time.perf_counter() - began
        chunk = max(1, min(2 * chunk, int(chunk * CHUNK / taken)))


def train(
    params: Section,
    network: Network,
    training: Data,
    validation: Data,
    keep: Callable[[list[Row]], None] = lambda history: None,
    state: State | None = None,
    keep_state: Callable[[State], None] | None = None,
    team: object | None = None,
) -> Weights:
    """Return the trained weights and what Adam keeps of them.

    Parameters
    ----------
    params : section `train`: a `stages.train.TrainParams`.
    training, validation : images float32 (n, h, w, c) and labels int64 (n,).
    keep : is given the history after each epoch.
    state : where to go on, to the same bytes.
    keep_state : is given, now and then, what it takes to go on from there.
    team : as `epoch` takes it; its chief says how far it is.

    Raises
    ------
    UserError
        A weight or the loss is no longer finite.
    """
    kernels, n, state = load(), len(training.labels), state or State()
    steps_an_epoch = math.ceil(n / params.batch_size)
    steps = params.epochs * steps_an_epoch
    weights = kernels.initial_weights(network, params.seed, averaged=params.averaging > 0)
    kept = [flat for flat in weights if flat is not None]
    for flat, value in zip(kept, state.variables or kept, strict=True):
        flat[...] = value
    keeper = resume.Keeper(keep_state, kept)
    shuffle = np.random.default_rng(params.seed)
    for _ in range(state.epochs):
        shuffle.permutation(n)
    with progress.shown(steps, silent=team is not None and not team.is_chief) as bar:
        started, first = time.perf_counter(), state.epochs + 1
        for number in range(first, params.epochs + 1):
            order, before = shuffle.permutation(n), (number - 1) * steps_an_epoch
            for chunk in epoch(
                params, network, weights, training, order, before, steps, state.start, team
            ):
                state = state._replace(
                    start=chunk.stop,
                    loss_sum=state.loss_sum + chunk.loss_sum,
                    correct=state.correct + chunk.correct,
                )
                keeper.offer(state, resume.EVERY)
                bar.update(before + math.ceil(chunk.stop / params.batch_size))
            if number == params.epochs and weights.averages is not None:
                weights.weights[...] = weights.averages  # the average becomes the model
            last = np.array([before + steps_an_epoch - 1])
            rate = float(learning_rates(params, steps, last, kernels)[0])
            row = {
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
            keep(state.history)
            keeper.offer(state)
            elapsed = time.perf_counter() - started
            left = elapsed / (number - first + 1) * (params.epochs - number)
            bar.line(
                f"epoch {number}/{params.epochs}  loss {row['loss']:.4f}  accuracy "
                f"{row['accuracy']:.4f}  validation loss {row['validation_loss']:.4f}  accuracy "
                f"{row['validation_accuracy']:.4f}  {progress.seconds(elapsed)}, about "
                f"{progress.seconds(left)} left"
            )
    return weights
