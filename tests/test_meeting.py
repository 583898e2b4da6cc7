"""Workers are who TF_CONFIG says, come in time, and train the same; else all end with a line."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from cnn import meeting
from cnn.errors import UserError
from cnn.meeting import Cluster, cluster_in, meet
from tools.workers import free_addresses

FOUR = ["a:1", "b:2", "c:3", "d:4"]
IDENTITY = {"train.seed": "42", "training data": "0a1b", "cnn.engine": "77"}


def config(cluster, kind="worker", index=0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


@pytest.mark.parametrize(
    ("environment", "index", "addresses"),
    [
        ({}, 0, [""]),
        (config({"worker": FOUR}), 0, FOUR),
        (config({"worker": FOUR}, index=3), 3, FOUR),
        (config({"chief": ["a:1"], "worker": FOUR[1:]}, "chief"), 0, FOUR),
        (config({"chief": ["a:1"], "worker": FOUR[1:]}, "worker", 2), 3, FOUR),
        (config({"worker": ["[::1]:7", "x.example:8"]}, index=1), 1, ["[::1]:7", "x.example:8"]),
    ],
)
def test_who_the_workers_are(environment, index, addresses):
    assert cluster_in(environment, shards=4) == (index, tuple(addresses))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON: ''"),
        ("{", "is no JSON: '{'"),
        ("[]", "has no cluster of workers and task among them: '[]'"),
        ("{}", "has no cluster of workers and task among them: '{}'"),
        ("7", "has no cluster of workers and task among them: '7'"),
        (config({"worker": FOUR}, "ps"), "has no cluster of workers and task among them"),
        (config({"worker": FOUR, "ps": ["e:5"]}), "has the role 'ps'; a chief and workers"),
        (config({"worker": FOUR}, index=4), "has the index 4 of 4 tasks of type worker"),
        (config({"worker": FOUR}, index=-1), "has the index -1 of 4 tasks of type worker"),
        (config({"worker": FOUR}, index=True), "has the index True of 4 tasks of type worker"),
        (config({"worker": FOUR}, index="0"), "has the index '0' of 4 tasks of type worker"),
        (config({"worker": ["a:1", "a:1"]}), "has an address twice: ['a:1', 'a:1']"),
        (config({"worker": ["a:1", "b"]}), "has addresses that are not host:port: ['a:1', 'b']"),
        (config({"worker": ["a:1", 7]}), "has addresses that are not host:port: ['a:1', 7]"),
        (config({"worker": FOUR[:3]}), "has 3 workers; train.shards 4 can be shared by 2 or 4;"),
        (config({"worker": FOUR[:1]}), "has 1 workers; train.shards 4 can be shared by 2 or 4;"),
        (config({"worker": [*FOUR, "e:5", "f:6", "g:7", "h:8"]}), "has 8 workers; train.shards 4"),
    ],
)
def test_what_is_no_such_cluster_is_refused(refusal, text, told):
    environment = text if isinstance(text, dict) else {"TF_CONFIG": text}

    message = refusal(cluster_in, environment, 4)

    assert message.startswith(f"TF_CONFIG {told}")
    assert message.endswith("; unset TF_CONFIG to train alone, or see docs/many-machines.md")


def test_a_training_in_one_shard_is_shared_by_nobody(refusal):
    assert "can be shared by no more than one" in refusal(cluster_in, config({"worker": FOUR}), 1)


@pytest.fixture
def all_meet(monkeypatch):
    """Let workers with these identities meet, each in a thread; return what each gets or raises."""
    monkeypatch.setattr(meeting, "ARRIVAL", 1.0)
    monkeypatch.setattr(meeting, "BEAT", 0.1)

    def call(*identities, state=b"state", stranger=None):
        addresses = tuple(free_addresses(len(identities)))

        def one(index):
            if identities[index] is None:
                return None
            try:
                return meet(
                    Cluster(index, addresses), identities[index], state if not index else b""
                )
            except UserError as error:
                return str(error)

        with ThreadPoolExecutor(len(identities)) as pool:
            found = [pool.submit(one, 0)]
            with nullcontext() if stranger is None else intrude(addresses[0], stranger):
                found += [pool.submit(one, index) for index in range(1, len(identities))]
                return [each.result() for each in found], addresses

    return call


def intrude(address: str, content: bytes) -> socket.socket:
    """Connect before the workers do, send something, and stay."""
    host, port = meeting.endpoint(address)
    for _ in range(100):
        try:
            link = socket.create_connection((host, port))
        except OSError:
            time.sleep(0.02)
        else:
            link.sendall(content)
            return link
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("n", [2, 4])
def test_all_get_the_chiefs_state_and_the_port_of_its_server(all_meet, n):
    found, _ = all_meet(*[IDENTITY] * n)

    assert [met.state for met in found] == [b"state"] * n
    assert len({met.port for met in found}) == 1
    assert [sorted(met.links) for met in found] == [list(range(1, n)), *[[0]] * (n - 1)]
    for index, met in enumerate(found[1:], 1):  # each link leads where its number says
        meeting.send(met.links[0], steps=index)
        assert meeting.receive(found[0].links[index], 1) == {"steps": index}


@pytest.mark.parametrize(
    "content", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2{}", b"\x7f" * 99, b"\0\0\0\2{"]
)
def test_a_stranger_at_the_door_changes_nothing(all_meet, content):
    found, _ = all_meet(IDENTITY, IDENTITY, stranger=content)

    assert [met.state for met in found] == [b"state"] * 2


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"train.seed": "43"}, "train.seed 43, the chief 42"),
        ({"training data": "ff", "x": "1"}, "training data ff, the chief 0a1b; 1 more differ"),
        ({"x": "1"}, "x 1, the chief None"),
    ],
)
def test_a_worker_that_trains_something_else_is_named_to_all(all_meet, changed, told):
    found, addresses = all_meet(IDENTITY, IDENTITY, IDENTITY | changed)

    assert found == [f"worker 2 ({addresses[2]}) has {told}"] * 3


def test_a_worker_that_does_not_come_is_named_to_all(all_meet):
    found, addresses = all_meet(IDENTITY, IDENTITY, None, None)

    absent = f"worker 2 ({addresses[2]}), worker 3 ({addresses[3]}) did not come within 1 s"
    assert found == [absent, absent, None, None]


def test_a_chief_that_does_not_come_is_named(all_meet):
    found, addresses = all_meet(None, IDENTITY)

    assert found[1] == f"the chief ({addresses[0]}) did not come within 1 s"


def test_a_chief_at_whose_address_another_program_listens(all_meet, refusal):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        message = refusal(meet, Cluster(0, (address, "b:2")), IDENTITY, b"")

    assert message == f"{address}: the chief cannot listen there: Address already in use"
