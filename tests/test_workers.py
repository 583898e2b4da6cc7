"""Several workers train the model of one, to the bit, and end together, with a line of why."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from cnn import workers
from cnn.kernels import Recipe, load
from cnn.meeting import BEAT, Cluster, Met, receive, send
from cnn.network import network_of
from cnn.resume import State
from cnn.workers import Team
from stages import train
from tests.clones import ROOT, environment
from tests.test_train import WRITTEN, flags
from tools.workers import config, free_addresses

TWO = Cluster(0, ("a:1", "b:2"))


class EndedError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def team(monkeypatch):
    """Return (a function that makes the team of a worker, the other end of its link)."""
    monkeypatch.setattr(workers, "SILENCE", 1.5)
    monkeypatch.setattr(workers, "BEHIND", 0.5)
    monkeypatch.setattr(workers, "BEAT", 0.1)
    told = []

    def end(code):
        told.append(code)
        raise EndedError

    monkeypatch.setattr(workers.os, "_exit", end)
    monkeypatch.setattr("threading.excepthook", lambda *_: None)
    ours, theirs = Pipe()
    made = []

    def make(index=0):
        made.append(Team(TWO._replace(index=index), Met({1 - index: ours}, 0, b"")))
        return made[-1]

    make.ended = told
    yield make, theirs
    for each in made:
        each.released.set()  # what is gone from now on is no fault
    theirs.close()
    for each in made:  # while `_exit` is still the one above
        each.watcher.join()


def heard(theirs, seconds=5.0) -> dict:
    """Return the first message that is no sign of life."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if "steps" not in (message := receive(theirs, seconds)):
            return message
    raise AssertionError("nothing was said")


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_alone_is_no_team_and_needs_no_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)  # to import it raises
    state = State(epochs=3)

    assert workers.assemble(Cluster(0, ("",)), {"train.seed": "42"}, state) == (None, state)
    with workers.together(None):
        pass


@pytest.mark.parametrize(("n", "shards"), [(2, 2), (2, 8), (4, 4), (4, 16)])
def test_the_shards_are_shared_and_the_steps_are_those_of_one(digits, n, shards):
    """To the bit, though a batch is short and some shards are empty."""
    network = network_of((5, 9), 3, (7,), 0.3, (14, 14, 1), 10)
    recipe = Recipe(
        3, 12, shards, dropout=0.3, shift=2, rotation=9, weight_decay=0.1, averaging=0.9
    )
    images, labels = digits
    order = np.random.default_rng(0).permutation(len(labels))[:29]
    rates = np.linspace(0.01, 0.02, 3, dtype=np.float32)
    steps = images, labels, order, 7, rates, rates
    alone = load().initial_weights(network, seed=1, averaged=True)
    expected = load().train(network, recipe, alone, *steps)
    meeting, rows = Barrier(n), [None] * n

    def one(index):
        team = Team(Cluster(index, tuple("abcd"[:n])), Met({}, 0, b""))

        def gather(row):  # as TensorFlow's servers do it
            rows[index] = row
            meeting.wait()
            found = np.stack(rows)
            meeting.wait()
            return found

        team.gather = gather
        weights = load().initial_weights(network, seed=1, averaged=True)
        return weights, team.train(network, recipe, weights, *steps, threads=1)

    with ThreadPoolExecutor(n) as pool:
        for weights, (losses, correct) in pool.map(one, range(n)):
            assert (losses.tobytes(), correct) == (expected[0].tobytes(), expected[1])
            for found, wanted in zip(weights, alone, strict=True):
                assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("index", [0, 1])
def test_each_says_that_it_is_there(team, index):
    make, theirs = team
    made = make(index)
    made.reached = 7

    assert [receive(theirs, 5), receive(theirs, 5)][1] == {"steps": 7}


@pytest.mark.parametrize(("index", "name"), [(0, "worker 1 (b:2)"), (1, "the chief (a:1)")])
def test_one_that_is_gone_or_silent_is_named(team, capsys, index, name):
    make, theirs = team
    make(index)
    if index:
        theirs.close()
        told = f"{name} has ended"
    else:
        told = f"{name} has not answered for 2 s"
    wait_for(lambda: make.ended)

    assert capsys.readouterr().err == f"error: {told}; start it again, it goes on\n"
    assert make.ended == [1]
    if not index:
        assert heard(theirs) == {"end": told}


def test_one_for_whom_the_others_wait_is_named(team, capsys):
    make, theirs = team
    make().reached = 5
    while not make.ended:
        send(theirs, steps=4)
        time.sleep(0.05)

    assert capsys.readouterr().err.startswith("error: worker 1 (b:2) has kept the others waiting")


def test_a_step_that_takes_long_for_all_is_no_fault(team):
    make, theirs = team
    make().reached = 5
    for _ in range(20):  # twice as long as one may keep others waiting
        send(theirs, steps=5)
        time.sleep(0.05)

    assert not make.ended


def test_what_the_chief_tells_is_passed_on(team, capsys):
    make, theirs = team
    make(1)
    send(theirs, end="worker 3 (d:4) has ended")
    wait_for(lambda: make.ended)

    assert capsys.readouterr().err.startswith("error: worker 3 (d:4) has ended; ")


def test_other_weights_end_all(team, capsys):
    make, theirs = team
    chief = make()
    send(theirs, done="another hash")

    with pytest.raises(EndedError):
        chief.agree([np.zeros(3)])
    assert capsys.readouterr().err.startswith("error: worker 1 (b:2) has other weights than the")
    assert heard(theirs) == {"end": "worker 1 (b:2) has other weights than the chief"}


def test_the_workers_wait_until_the_chief_has_written(team):
    make, theirs = team
    worker = make(1)
    worker.agree([np.arange(3.0)])
    assert set(heard(theirs)) == {"done"}
    assert not worker.released.is_set()

    send(theirs, bye=True)
    worker.part()
    theirs.close()
    time.sleep(3 * BEAT / 10)
    assert not make.ended


def test_what_tensorflow_says_is_said_only_if_nobody_knows_more(tf, team, capsys, monkeypatch):
    make, _ = team
    chief = make()
    at_once = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    monkeypatch.setattr(workers, "time", at_once)

    with pytest.raises(EndedError), chief.together():
        raise tf.errors.DeadlineExceededError(None, None, "Collective\ntimed out")
    told = capsys.readouterr().err
    assert told.startswith("error: the workers have lost each other: 'Collective timed out'; ")


SILENT = """
import os
from multiprocessing import Pipe
from cnn import runtime, workers
from cnn.meeting import Cluster, Met, endpoint
from tools.workers import free_addresses

workers.START, workers.SILENCE = 1.0, 2.0
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as `assemble` does
runtime.start_tensorflow()
(*both, server), (ours, theirs) = free_addresses(3), Pipe()
team = workers.Team(Cluster(0, tuple(both)), Met({1: ours}, endpoint(server)[1], b""))
with team.together():
    team.start_server()
"""


def test_one_that_stops_before_the_servers_start_is_named(tmp_path):
    """TensorFlow waits for it then, and lets nothing of Python's run meanwhile."""
    command = [sys.executable, "-c", SILENT]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path / "clone"), capture_output=True, text=True
    )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(" has not answered for 2 s; start it again, it goes on")


@pytest.fixture(scope="module")
def eventful(tiny, tmp_path_factory):
    """Parameters with all that a worker could do in another order than one alone."""
    changed = {"dropout": 0.3, "shift": 2.0, "rotation": 10.0, "averaging": 0.9, "epochs": 2}
    changed |= {"shards": 4, "batch_size": 12}  # an epoch is trained in two parts
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump({"train": tiny["train"] | changed}))
    return path


@pytest.fixture
def start(prepared, tmp_path):
    """Start the train stage as worker `index` of those at `addresses`; it writes into `folder`.

    Without addresses it trains alone. Its clock goes `speed` times as fast as others.
    """
    running = []
    program = """if True:
        import sys, time, types
        from cnn import engine
        from cnn.errors import run
        from stages import train

        speed = float(sys.argv.pop(1))
        engine.time = types.SimpleNamespace(perf_counter=lambda: speed * time.perf_counter())
        sys.exit(run(train.main))
    """

    def call(params, folder, addresses=(), index=0, speed=1.0):
        words = flags(params, prepared / "train.npz", prepared / "validation.npz", folder)
        told = {"TF_CONFIG": config(addresses, index)} if addresses else {}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", program, str(speed), *words],
                cwd=ROOT,
                env=environment(tmp_path / "clone") | told,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield call
    for process in running:
        process.kill()
        process.communicate()


def test_two_workers_give_the_bytes_of_one_and_the_first_alone_writes(
    start, eventful, prepared, tmp_path
):
    addresses = free_addresses(2)
    team = [
        start(eventful, tmp_path / f"team{index}", addresses, index, speed)
        for index, speed in enumerate((1.0, 1e5))  # what one does quickly takes the other long
    ]
    told = [process.communicate(timeout=120) for process in team]
    assert [process.returncode for process in team] == [0, 0], told
    parts = prepared / "train.npz", prepared / "validation.npz"
    train.main(flags(eventful, *parts, tmp_path / "alone"))

    assert [error for _, error in told] == ["", ""]
    assert "epoch 2/2" in told[0][0]
    assert told[1][0] == ""
    assert not (tmp_path / "team1").exists()
    for name in WRITTEN.values():
        assert (tmp_path / "team0" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_when_one_is_killed_the_other_ends_and_the_next_run_goes_on_alone(
    start, eventful, tmp_path
):
    params = yaml.safe_load(eventful.read_text())
    params["train"]["epochs"] = 1000
    endless = tmp_path / "params.yaml"
    endless.write_text(yaml.safe_dump(params))
    addresses = free_addresses(2)
    chief, worker = (start(endless, tmp_path / "out", addresses, index) for index in (0, 1))
    assert any(line.startswith("epoch 1/") for line in iter(chief.stdout.readline, ""))
    worker.send_signal(signal.SIGKILL)
    _, error = chief.communicate(timeout=60)

    assert chief.returncode == 1
    assert error == f"error: worker 1 ({addresses[1]}) has ended; start it again, it goes on\n"
    assert not {"cnn.keras", "environment.json"} & set(os.listdir(tmp_path / "out"))
    alone = start(endless, tmp_path / "out")
    assert alone.stdout.readline().startswith("going on after epoch ")
