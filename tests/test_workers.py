"""Several workers train the model of one, to the bit, or all end with a line that says why."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml

from cnn.base.errors import UserError
from cnn.training.checkpoint import State
from distributed import workers
from distributed.workers import Cluster, Team, cluster_in, meet
from tests.helpers.clones import ROOT, environment
from tests.test_train import WRITTEN, flags
from tools.workers import config, free_addresses

FOUR = ["a:1", "b:2", "c:3", "d:4"]
FINGERPRINT = {"train.seed": "42", "training data": "0a1b", "cnn.training.engine": "77"}
AGAIN = "start it again, it goes on"


# Who they are


def tf_config(cluster, kind="worker", index=0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("variables", "index", "addresses"),
    [
        ({}, 0, [""]),
        (tf_config({"worker": FOUR}, index=3), 3, FOUR),
        (tf_config({"chief": ["a:1"], "worker": FOUR[1:]}, "chief"), 0, FOUR),
        (tf_config({"chief": ["a:1"], "worker": FOUR[1:]}, "worker", 2), 3, FOUR),
        (tf_config({"worker": ["[::1]:7", "x.example:8"]}), 0, ["[::1]:7", "x.example:8"]),
    ],
)
def test_who_the_workers_are(variables, index, addresses):
    assert cluster_in(variables, shards=4) == (index, tuple(addresses))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no JSON: ''"),
        ("[]", "has no cluster of workers and task among them: '[]'"),
        ("{}", "has no cluster of workers and task among them: '{}'"),
        (tf_config({"worker": FOUR}, "ps"), "has no cluster of workers and task among them"),
        (tf_config({"worker": FOUR, "ps": ["e:5"]}), "has the role 'ps'; a chief and workers"),
        (tf_config({"worker": FOUR}, index=4), "has the index 4 of 4 tasks of type worker"),
        (tf_config({"worker": FOUR}, index=-1), "has the index -1 of 4 tasks of type worker"),
        (tf_config({"worker": FOUR}, index=True), "has the index True of 4 tasks of type worker"),
        (tf_config({"worker": ["a:1", "a:1"]}), "has an address twice: ['a:1', 'a:1']"),
        (tf_config({"worker": ["a:1", "b"]}), "has addresses that are not host:port: ['a:1', 'b']"),
        (tf_config({"worker": ["a:1", 7]}), "has addresses that are not host:port: ['a:1', 7]"),
        (tf_config({"worker": FOUR[:3]}), "has 3 workers; train.shards 4 can be shared by 2 or 4;"),
        (tf_config({"worker": FOUR[:1]}), "has 1 workers; train.shards 4 can be shared by 2 or 4;"),
        (tf_config({"worker": [*FOUR, "e:5", "f:6", "g:7", "h:8"]}), "has 8 workers; train.shards"),
    ],
)
def test_what_is_no_such_cluster_is_refused(refusal, text, problem):
    variables = text if isinstance(text, dict) else {"TF_CONFIG": text}

    message = refusal(cluster_in, variables, 4)

    assert message.startswith(f"TF_CONFIG {problem}")
    assert message.endswith("; unset TF_CONFIG to train alone, or see docs/many-machines.md")


def test_a_training_in_one_shard_is_shared_by_nobody(refusal):
    message = refusal(cluster_in, tf_config({"worker": FOUR}), 1)
    assert "can be shared by no more than one" in message


# How they meet


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(workers, "ARRIVAL", 1.0)
    monkeypatch.setattr(workers, "GREETING", 0.5)
    monkeypatch.setattr(workers, "PATIENCE", 0.3)


@pytest.fixture
def all_meet(impatient):
    """Let workers with these fingerprints meet, each in a thread; return what each gets or raises.

    A stranger connects before the workers do, sends `stranger`, and stays.
    """

    def call(*fingerprints, stranger=None):
        addresses = tuple(free_addresses(len(fingerprints)))

        def one(index):
            if fingerprints[index] is None:
                return None
            try:
                state = State(3) if index == 0 else None
                return meet(Cluster(index, addresses), fingerprints[index], state)
            except UserError as error:
                return str(error)

        with ThreadPoolExecutor(len(fingerprints)) as pool:
            found = [pool.submit(one, 0)]
            link = stranger is not None and connect(addresses[0])
            if link:
                link.sendall(stranger)
            found += [pool.submit(one, index) for index in range(1, len(fingerprints))]
            return [each.result() for each in found], addresses

    return call


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    for _ in range(100):
        try:
            return socket.create_connection((host, int(port)))
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nobody listens")


def in_threads(call, given: list) -> list:
    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(call, given))


def test_one_alone_is_no_team():
    assert meet(Cluster(0, ("",)), FINGERPRINT, State(3)) == (None, State(3))


@pytest.mark.parametrize("n", [2, 4])
def test_all_get_the_chiefs_state_and_then_the_rows_of_all_in_their_order(all_meet, n):
    found, _ = all_meet(*[FINGERPRINT] * n)
    teams = [team for team, _ in found]

    assert [state for _, state in found] == [State(3)] * n
    assert [(team.index, team.size) for team in teams] == [(index, n) for index in range(n)]
    rows = np.random.default_rng(0).integers(2**32, size=(n, 250_000), dtype=np.uint32)
    rows = rows.view(np.float32)  # every pattern of bits, those that are not finite included
    for gathered in in_threads(lambda team: team.gather(rows[team.index]), teams):
        assert gathered.tobytes() == rows.tobytes()


HELLO = workers.HEADER.pack(workers.HELLO, 2) + b"{}"


@pytest.mark.parametrize(
    "content",
    [b"", b"GET / HTTP/1.1\r\n\r\n", HELLO, HELLO[:-1], b"h" + b"\x7f" * 99,
     workers.HEADER.pack(workers.END, 2) + b"no"],
)  # fmt: skip
def test_a_stranger_that_connects_changes_nothing(all_meet, content):
    found, _ = all_meet(FINGERPRINT, FINGERPRINT, stranger=content)

    assert [state for _, state in found] == [State(3)] * 2


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"train.seed": "43"}, "train.seed 43, the chief 42"),
        ({"training data": "ff", "x": "1"}, "training data ff, the chief 0a1b; 1 more differ"),
        ({"x": "1"}, "x 1, the chief None"),
    ],
)
def test_a_worker_that_trains_something_else_is_named_to_all(all_meet, changed, problem):
    found, addresses = all_meet(FINGERPRINT, FINGERPRINT, FINGERPRINT | changed)

    assert found == [f"worker 2 ({addresses[2]}) has {problem}"] * 3


def test_a_worker_that_does_not_come_is_named_to_all(all_meet):
    found, addresses = all_meet(FINGERPRINT, FINGERPRINT, None, None)

    absent = f"worker 2 ({addresses[2]}), worker 3 ({addresses[3]}) did not come within 1 s"
    assert found == [absent, absent, None, None]


def test_a_chief_that_does_not_come_is_named(all_meet):
    found, addresses = all_meet(None, FINGERPRINT)

    assert found[1] == f"the chief ({addresses[0]}) did not come within 1 s"


def test_a_chief_at_whose_address_another_program_listens(refusal):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        message = refusal(meet, Cluster(0, (address, "b:2")), FINGERPRINT, None)

    assert message == f"{address}: the chief cannot listen there: Address already in use"


# How they end


def pair() -> tuple[Team, Team]:
    """The chief and a worker, who have met."""
    ends, cluster = socket.socketpair(), Cluster(0, ("a:1", "b:2"))
    return Team(cluster, {1: ends[0]}), Team(cluster._replace(index=1), {0: ends[1]})


@pytest.mark.parametrize(("index", "name"), [(0, "worker 1 (b:2)"), (1, "the chief (a:1)")])
def test_one_that_is_gone_or_silent_is_named(impatient, refusal, index, name):
    both, row = pair(), np.zeros(3, np.float32)
    message = refusal(both[index].gather, row)
    assert message == f"{name} has not answered for {1 - 0.1 * index:.0f} s; {AGAIN}"

    both = pair()
    both[1 - index].links[index].close()
    assert refusal(both[index].gather, row) == f"{name} has ended; {AGAIN}"


def test_a_step_that_takes_the_chief_long_may_take_others_long(impatient):
    chief, worker = pair()
    chief.gathered -= 10  # seconds that its own part has taken

    def late(team):
        time.sleep(3 * team.index * workers.PATIENCE)
        return team.gather(np.full(3, team.index, np.float32))

    for rows in in_threads(late, [chief, worker]):
        np.testing.assert_array_equal(rows, [[0] * 3, [1] * 3])


def test_other_weights_end_all(refusal):
    weights = np.arange(9, dtype=np.float32)
    in_threads(lambda team: team.agree(weights), pair())

    for message in in_threads(lambda team: refusal(team.agree, weights + team.index), pair()):
        assert message.startswith("worker 1 (b:2) has other weights than the chief, so no model is")


# With the stage


@pytest.fixture(scope="module")
def eventful(tiny, tmp_path_factory):
    """Parameters with all that a worker could do in another order than one alone."""
    changed = {"dropout": 0.3, "shift": 0.1, "rotation": 10.0, "averaging": 0.9, "epochs": 2}
    changed |= {"shards": 4, "batch_size": 64}  # the last of an epoch has too few for four shards
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump({"train": tiny["train"] | changed}))
    return path


@pytest.fixture(scope="module")
def endless(eventful):
    params = yaml.safe_load(eventful.read_text())
    params["train"]["epochs"] = 1000
    path = eventful.with_name("endless.yaml")
    path.write_text(yaml.safe_dump(params))
    return path


@pytest.fixture(scope="module")
def alone(run_train, eventful, tmp_path_factory):
    return run_train(eventful, tmp_path_factory.mktemp("alone"))


PROGRAM = """
import sys
from cnn.base.program import run
from distributed import workers
from stages import train

workers.PATIENCE = float(sys.argv.pop(1))
code = run(train.main)
assert not {"tensorflow", "keras"} & set(sys.modules)
sys.exit(code)
"""


@pytest.fixture
def start(prepared, tmp_path):
    """Start the train stage as worker `index` of those at `addresses`; it writes into `folder`.

    Without addresses it trains alone.
    """
    running = []

    def call(params, folder, addresses=(), index=0, data="train.npz", patience=30):
        words = flags(params, prepared / data, prepared / "validation.npz", folder)
        variables = {"TF_CONFIG": config(addresses, index)} if addresses else {}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(patience), *words],
                cwd=ROOT,
                env=environment(tmp_path / "clone") | variables,
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


@pytest.mark.parametrize("n", [2, 4])
def test_workers_give_the_bytes_of_one_and_the_chief_alone_writes(
    start, eventful, alone, tmp_path, n
):
    addresses = free_addresses(n)
    team = [start(eventful, tmp_path / str(index), addresses, index) for index in range(n)]
    printed = [process.communicate(timeout=120) for process in team]

    assert [process.returncode for process in team] == [0] * n, printed
    assert [errors for _, errors in printed] == [""] * n
    assert "epoch 2/2" in printed[0][0]
    assert [output for output, _ in printed[1:]] == [""] * (n - 1)
    assert os.listdir(tmp_path) == ["0"]
    for name in WRITTEN.values():
        assert (tmp_path / "0" / name).read_bytes() == (alone / name).read_bytes()


def test_when_one_is_killed_all_others_name_it_and_the_next_run_goes_on_alone(
    start, endless, tmp_path
):
    addresses = free_addresses(4)
    team = [start(endless, tmp_path / "out", addresses, index) for index in range(4)]
    assert any(line.startswith("epoch 1/") for line in iter(team[0].stdout.readline, ""))
    killed = team.pop(2)
    killed.send_signal(signal.SIGKILL)

    for process in team:
        assert process.communicate(timeout=60)[1] == (
            f"error: worker 2 ({addresses[2]}) has ended; {AGAIN}\n"
        )
        assert process.returncode == 1
    assert not {"cnn.keras", "environment.json"} & set(os.listdir(tmp_path / "out"))
    again = start(endless, tmp_path / "out")
    assert again.stdout.readline().startswith("going on after epoch ")


def test_one_that_is_stopped_is_named(start, endless, tmp_path):
    addresses = free_addresses(2)
    chief, worker = (
        start(endless, tmp_path / "out", addresses, index, patience=1) for index in (0, 1)
    )
    assert any(line.startswith("epoch 1/") for line in iter(chief.stdout.readline, ""))
    worker.send_signal(signal.SIGSTOP)

    errors = chief.communicate(timeout=60)[1]

    assert chief.returncode == 1
    name = re.escape(f"worker 1 ({addresses[1]})")
    assert re.fullmatch(rf"error: {name} has not answered for \d+ s; {AGAIN}\n", errors)


def test_other_data_is_refused_by_name(start, eventful, tmp_path):
    addresses = free_addresses(2)
    team = [
        start(eventful, tmp_path / "out", addresses, index, data=data)
        for index, data in enumerate(("train.npz", "test.npz"))
    ]

    for process in team:
        errors = process.communicate(timeout=60)[1]
        assert errors.startswith(f"error: worker 1 ({addresses[1]}) has training data ")
        assert errors.count("\n") == 1
        assert process.returncode == 1
    assert not (tmp_path / "out").exists()
