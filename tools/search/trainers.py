"""Processes that have the data in memory and train what they are given, one training after another.

Each training is the train stage's own, to the same bytes: `engine.train`, and the file that comes
of it. Processes side by side share the cores out.
"""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import RLock
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from cnn.base.program import in_a_line, take_cores
from cnn.data import sets
from cnn.data.beside import beside
from cnn.training import engine
from cnn.training.checkpoint import Row
from cnn.training.params import TrainParams

DONE, STOPPED, FAILED = "done", "stopped", "failed"
Name = TypeVar("Name", bound=Hashable)


class Task(NamedTuple):
    """A training: its parameters, and where its model is to be written, if it is."""

    params: TrainParams
    model: Path | None = None


class Outcome(NamedTuple):
    """What became of a training.

    state : DONE, STOPPED by who watched it, or FAILED; history : a row per finished epoch.
    why : why it failed, in one line.
    """

    state: str
    history: list[Row]
    why: str = ""


def train_all(
    tasks: Mapping[Name, Task],
    files: tuple[Path, Path],
    trainers: list[Connection],
    on_epoch: Callable[[Name, list[Row]], bool],
) -> Iterator[tuple[Name, Outcome]]:
    """Train the tasks, as many at a time as there are trainers; yield each name as it ends.

    Parameters
    ----------
    files : npz for training and for validation.
    trainers : of `started`.
    on_epoch : called after each epoch; the training goes on where it returns True.

    Raises
    ------
    MemoryError
        A trainer was killed, mostly since there was no memory.
    """
    waiting, idle, running = list(tasks.items()), list(trainers), {}
    histories: dict[Name, list[Row]] = {name: [] for name in tasks}
    try:
        while waiting or running:
            while waiting and idle:
                (name, task), trainer = waiting.pop(0), idle.pop()
                trainer.send((task, files))
                running[trainer] = name
            for trainer in wait(list(running)):
                kind, told = trainer.recv()
                name = running[trainer]
                if kind == "epoch":
                    histories[name].append(told)
                    trainer.send(on_epoch(name, histories[name]))
                else:
                    idle.append(trainer)
                    del running[trainer]
                    yield name, Outcome(kind, histories[name], told)
    except (EOFError, OSError):
        raise MemoryError("a process that trains was ended") from None


def started(n: int):
    """Start n trainers: a context that gives their connections."""
    return beside(_serve, [(index, n) for index in range(n)])


@contextmanager
def silent() -> Iterator[None]:
    """Discard what a training says of its progress."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


class _Stopped(Exception):  # noqa: N818 - no error
    pass


def _serve(connection: Connection, index: int, of: int) -> None:
    take_cores(index, of)
    tqdm.set_lock(RLock())  # its own would be left behind in the system when this process ends
    loaded = None
    while True:
        task, files = connection.recv()
        try:
            if loaded is None or loaded[0] != files:
                loaded = files, [sets.load(file) for file in files]
            with silent():
                _train(task, *loaded[1], connection)
            told = DONE, ""
        except _Stopped:
            told = STOPPED, ""
        except EOFError:
            raise
        except Exception as error:
            if (line := in_a_line(error)) is None:
                raise
            told = FAILED, line
        connection.send(told)


def _train(task: Task, training: sets.Data, validation: sets.Data, connection: Connection) -> None:
    params = task.params
    network = params.network(training.images.shape[1:], len(training.classes))

    def on_epoch(history: list[Row]) -> None:
        connection.send(("epoch", history[-1]))
        if not connection.recv() and len(history) < params.epochs:
            raise _Stopped

    trained = engine.train(params, network, training, validation, on_epoch)
    if task.model:
        engine.write(task.model, params, network, trained, len(training.labels))
