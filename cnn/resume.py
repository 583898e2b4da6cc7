"""Keep the state of a training beside its model, so that one that was killed goes on.

The state holds all that later steps depend on, to the bit, under the identity of the training
(cnn/identity.py): what goes on gives the bytes of a training that nobody disturbed, and another
training does not go on from it.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.files import replacing
from cnn.identity import differences
from cnn.npz import ZIP_ERRORS

EVERY = 30.0  # seconds, within an epoch
SHARE = 0.01  # of the time, at most, that goes into keeping the state
MOST_NAMED = 3  # differences that the note names

Row = dict[str, float]  # of one epoch


class State(NamedTuple):
    """A training between two steps.

    epochs : how many are finished; `history` has a row for each.
    start : how many images of the epoch under way have been seen.
    loss_sum, correct : of these images.
    variables : float32 (p,) each: weights, momenta, velocities and, if there are, averages.
    """

    epochs: int = 0
    start: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    history: list[Row] = []  # never changed in place
    variables: list[NDArray] = []

    def __str__(self) -> str:
        within = f" and {self.start:,} images of the next" if self.start else ""
        return f"epoch {self.epochs}{within}"


class Keeper:
    """Keeps the state now and then, so that it costs little of the time.

    write : what keeps it; None keeps none.
    variables : arrays that the training changes in place.
    """

    def __init__(self, write: Callable[[State], None] | None, variables: Sequence[NDArray]):
        self.write, self.variables = write, variables
        self.last, self.cost = time.monotonic(), 0.0  # when it was kept, how long that took

    def offer(self, state: State, wait: float = 0.0) -> None:
        """Keep a state, unless that would be sooner than `wait` seconds, or than it is worth."""
        began = time.monotonic()
        if self.write is None or began - self.last < max(wait, self.cost / SHARE):
            return
        self.write(state._replace(variables=self.variables))
        self.last = time.monotonic()
        self.cost = self.last - began


def path_beside(model: Path) -> Path:
    """Return where the state of the training that writes `model` is kept.

    DVC removes outputs before it runs a stage; this is none. Git ignores it.
    """
    return model.with_name(f".{model.name}.resume")


def pack(state: State, identity: Mapping[str, str]) -> bytes:
    """Return a state as the bytes of an npz."""
    told = {"identity": dict(identity), "history": state.history}
    stream = io.BytesIO()
    np.savez(
        stream,
        *state.variables,
        told=np.array(json.dumps(told)),
        place=np.array([state.epochs, state.start, state.correct], np.int64),
        loss_sum=np.float64(state.loss_sum),
    )
    return stream.getvalue()


def unpack(content: bytes) -> tuple[State, dict[str, str]]:
    """Return the state and the identity in what `pack` made.

    Raises
    ------
    One of ZIP_ERRORS, if it is damaged.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        told = json.loads(str(arrays["told"]))
        epochs, start, correct = arrays["place"]
        numbers = range(len(arrays.files) - 3)
        variables = [arrays[f"arr_{number}"] for number in numbers]
        state = State(
            int(epochs),
            int(start),
            float(arrays["loss_sum"]),
            int(correct),
            told["history"],
            variables,
        )
    return state, told["identity"]


def save(path: Path, identity: Mapping[str, str], state: State) -> None:
    """Write a state, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(pack(state, identity))


def load(path: Path, identity: Mapping[str, str]) -> State | None:
    """Return the state of this very training; None, and a note why, where there is another."""
    if not path.is_file():
        return None
    try:
        state, of = unpack(path.read_bytes())
    except ZIP_ERRORS as error:
        why = f"is damaged ({' '.join(str(error).split())})"
    else:
        if not (changed := differences(of, identity)):
            return state
        named = [f"{name} was {of.get(name)}, is {identity.get(name)}" for name in changed]
        more = f", and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        why = f"is another training's ({'; '.join(named[:MOST_NAMED])}{more})"
    print(f"note: {path}: the state that was kept {why}; starting anew", file=sys.stderr)
    return None
