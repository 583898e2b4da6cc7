"""Save the state of a training next to its model, so that one that was killed goes on.

The state holds all that later steps depend on, to the bit, under the fingerprint of the training:
a resumed training gives the bytes of an undisturbed one, and another training does not resume it.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from cnn.base.files import atomic_write
from cnn.base.npz import ZIP_ERRORS
from cnn.training.fingerprint import differences

INTERVAL = 30.0  # seconds between two states within an epoch
SHARE = 0.01  # of the time, at most, that goes into saving
MOST_NAMED = 3  # differences that the note names


class Row(TypedDict):
    """An epoch in the history of a training; the keys are the columns of training.csv.

    epoch : from 1 on.
    accuracy, loss : means over the training images, each as its step met it (cross-entropy).
    validation_accuracy, validation_loss : of the network after the epoch.
    learning_rate : of the epoch's last step.
    """

    epoch: int
    accuracy: float
    loss: float
    validation_accuracy: float
    validation_loss: float
    learning_rate: float


class State(NamedTuple):
    """A training between two steps.

    epochs : how many are finished; `history` has a row for each.
    start : how many images of the current epoch have been seen.
    loss_sum, correct : of these images.
    variables : float32 (p,) each: weights, momenta, velocities and, if there are, averages.
    """

    epochs: int = 0
    start: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    history: list[Row] = []  # never changed in place
    variables: list[NDArray[np.float32]] = []

    def __str__(self) -> str:
        within = f" and {self.start:,} images of the next" if self.start else ""
        return f"epoch {self.epochs}{within}"


class Checkpointer:
    """Saves the state now and then, so that it costs little of the time.

    save : writes a state; None for a training that saves none.
    variables : `State.variables`, which the training changes in place.
    """

    def __init__(self, save: Callable[[State], None] | None, variables: Sequence[NDArray]):
        self.save, self.variables = save, variables
        self.last, self.cost = time.monotonic(), 0.0  # when it was saved, and how long that took

    def maybe_save(self, state: State, interval: float = 0.0) -> None:
        """Save a state, unless the last one is younger than `interval` seconds or cost much."""
        began = time.monotonic()
        if self.save is None or began - self.last < max(interval, self.cost / SHARE):
            return
        self.save(state._replace(variables=self.variables))
        self.last = time.monotonic()
        self.cost = self.last - began


def checkpoint_path(model: Path) -> Path:
    """Return where the state of the training that writes `model` is saved.

    DVC removes outputs before it runs a stage; this is none. Git ignores it.
    """
    return model.with_name(f".{model.name}.resume")


def pack(state: State, fingerprint: Mapping[str, str]) -> bytes:
    """Return a state as the bytes of an npz."""
    stream = io.BytesIO()
    np.savez(
        stream,
        *state.variables,
        texts=np.array(json.dumps([dict(fingerprint), state.history])),
        place=np.array([state.epochs, state.start, state.correct], np.int64),
        loss_sum=np.float64(state.loss_sum),
    )
    return stream.getvalue()


def unpack(content: bytes) -> tuple[State, dict[str, str]]:
    """Return the state and the fingerprint in what `pack` made.

    Raises
    ------
    One of ZIP_ERRORS, if it is damaged.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        fingerprint, history = json.loads(str(arrays["texts"]))
        epochs, start, correct = arrays["place"].tolist()
        variables = [arrays[f"arr_{number}"] for number in range(len(arrays.files) - 3)]
        loss_sum = float(arrays["loss_sum"])
    return State(epochs, start, loss_sum, correct, history, variables), fingerprint


def save(path: Path, fingerprint: Mapping[str, str], state: State) -> None:
    """Write a state, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(pack(state, fingerprint))


def load(path: Path, fingerprint: Mapping[str, str]) -> State | None:
    """Return the state of this very training; None, and a note why, where there is another."""
    if not path.is_file():
        return None
    try:
        state, other = unpack(path.read_bytes())
    except ZIP_ERRORS as error:
        why = f"is damaged ({' '.join(str(error).split())})"
    else:
        if not (changed := differences(other, fingerprint)):
            return state
        named = [f"{name} was {other.get(name)}, is {fingerprint.get(name)}" for name in changed]
        more = f", and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        why = f"is another training's ({'; '.join(named[:MOST_NAMED])}{more})"
    print(f"note: {path}: the saved state {why}; starting from the beginning", file=sys.stderr)
    return None
