"""Let the workers of a training meet, and see that all train the same.

TF_CONFIG says who they are, as it does to TensorFlow. The chief, the first of them, listens at its
address. The others connect and say by name what their training depends on; the chief refuses what
differs from its own, and hands out the state from which to go on.
"""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from cnn.errors import UserError, brief
from cnn.identity import differences

VARIABLE = "TF_CONFIG"
ARRIVAL = 50.0  # seconds in which all must have come
BEAT = 1.0  # seconds between two signs of life
MOST, MOST_STATE = 2**20, 2**32  # bytes of a message, and of a state
LOOPBACK = ("localhost", "127.0.0.1")


class Cluster(NamedTuple):
    """The workers of a training, as one of them sees them.

    index : of this worker; 0 is the chief.
    addresses : "host:port" of each.
    """

    index: int
    addresses: tuple[str, ...]

    def name(self, index: int) -> str:
        who = f"worker {index}" if index else "the chief"
        return f"{who} ({self.addresses[index]})"


def cluster_in(environment: Mapping[str, str], shards: int) -> Cluster:
    """Return what TF_CONFIG says; where it is not set, a cluster of this process alone.

    Raises
    ------
    UserError
        It is not of TensorFlow's form, or so many workers cannot share `shards` shards.
    """
    text = environment.get(VARIABLE)
    if text is None:
        return Cluster(0, ("",))
    cure = f"unset {VARIABLE} to train alone, or see docs/many-machines.md"

    def refuse(what: str) -> UserError:
        return UserError(f"{VARIABLE} {what}; {cure}")

    try:
        document = json.loads(text)
    except ValueError:
        raise refuse(f"is no JSON: {brief(text)}") from None
    try:
        jobs, task = document["cluster"], document["task"]
        kind, index = task["type"], task["index"]
        addresses = [*jobs.get("chief", ()), *jobs["worker"]]
        job = list(jobs[kind])
    except (TypeError, KeyError, AttributeError):
        raise refuse(f"has no cluster of workers and task among them: {brief(text)}") from None
    if unknown := set(jobs) - {"chief", "worker"}:
        raise refuse(f"has the role {brief(min(unknown))}; a chief and workers are known")
    if not all(type(each) is str and each.rpartition(":")[2].isdigit() for each in addresses):
        raise refuse(f"has addresses that are not host:port: {brief(addresses)}")
    if len(set(addresses)) < len(addresses):
        raise refuse(f"has an address twice: {brief(addresses)}")
    if type(index) is not int or not 0 <= index < len(job):
        raise refuse(f"has the index {brief(index)} of {len(job)} tasks of type {kind}")
    n = len(addresses)
    if n < 2 or n & (n - 1) or shards % n:
        possible = [2**power for power in range(1, shards.bit_length())]
        raise refuse(
            f"has {n} workers; train.shards {shards} can be shared by "
            f"{' or '.join(map(str, possible)) if possible else 'no more than one'}"
        )
    return Cluster(addresses.index(job[index]), tuple(addresses))


class Met(NamedTuple):
    """What a worker has when all have come.

    links : connections to the others, by index; a worker has one, to the chief.
    port : of the chief's server of TensorFlow's.
    state : packed, of the training that the chief goes on with; b"" of a new one.
    """

    links: dict[int, Connection]
    port: int
    state: bytes


def endpoint(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def linked(link: socket.socket) -> Connection:
    """Return the connection; one that stalls within a message raises OSError."""
    link.settimeout(None)
    patience = struct.pack("ll", math.ceil(5 * BEAT), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        link.setsockopt(socket.SOL_SOCKET, option, patience)
    return Connection(link.detach())


def send(connection: Connection, **message: object) -> None:
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection, seconds: float) -> dict:
    """Return the next message; EOFError where the other side is gone or silent for so long."""
    if not connection.poll(seconds):
        raise EOFError
    return json.loads(connection.recv_bytes(MOST))


def meet(cluster: Cluster, identity: Mapping[str, str], state: bytes) -> Met:
    """Return when all workers have come and train the same; `state` is the chief's.

    Raises
    ------
    UserError
        A worker did not come in time, or trains something else.
    """
    if cluster.index:
        return _come(cluster, identity)
    return _receive_all(cluster, identity, state)


def _receive_all(cluster: Cluster, identity: Mapping[str, str], state: bytes) -> Met:
    host, port = endpoint(cluster.addresses[0])
    deadline = time.monotonic() + ARRIVAL
    links: dict[int, Connection] = {}
    problem = ""
    try:  # at all addresses, as TensorFlow's server does, unless all is on this machine
        listening = socket.create_server((host if host in LOOPBACK else "", port))
    except OSError as error:
        raise UserError(
            f"{cluster.addresses[0]}: the chief cannot listen there: {os.strerror(error.errno)}"
        ) from None
    with listening:
        while len(links) < len(cluster.addresses) - 1:
            listening.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = linked(listening.accept()[0])
            except TimeoutError:
                absent = set(range(1, len(cluster.addresses))) - set(links)
                names = ", ".join(map(cluster.name, sorted(absent)))
                problem = problem or f"{names} did not come within {ARRIVAL:.0f} s"
                break
            try:
                hello = receive(connection, 5 * BEAT)
                index, theirs = hello["index"], dict(hello["identity"])
            except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError):
                continue  # a stranger
            if type(index) is not int or not 0 < index < len(cluster.addresses):
                continue
            if index in links:
                problem = f"{cluster.name(index)} has come twice"
            elif changed := differences(identity, theirs):
                name = changed[0]
                problem = (
                    f"{cluster.name(index)} has {name} {theirs.get(name)}, the chief "
                    f"{identity.get(name)}"
                )
                problem += f"; {len(changed) - 1} more differ" if len(changed) > 1 else ""
            if problem:  # those who come soon are told the reason too
                deadline = min(deadline, time.monotonic() + 5 * BEAT)
            links[index] = connection
    with socket.socket() as probe:
        probe.bind(("", 0))
        server_port = probe.getsockname()[1]
    for connection in links.values():
        with suppress(OSError):  # it has ended meanwhile: the watch will say so
            if problem:
                send(connection, end=problem)
            else:
                send(connection, port=server_port)
                connection.send_bytes(state)
    if problem:
        raise UserError(problem)
    return Met(links, server_port, state)


def _come(cluster: Cluster, identity: Mapping[str, str]) -> Met:
    deadline, chief = time.monotonic() + ARRIVAL, cluster.name(0)
    while True:
        try:
            link = socket.create_connection(endpoint(cluster.addresses[0]), timeout=5 * BEAT)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise UserError(f"{chief} did not come within {ARRIVAL:.0f} s") from None
            time.sleep(BEAT / 4)
    connection = linked(link)
    try:
        send(connection, index=cluster.index, identity=dict(identity))
        # The chief may have come just before, and waits so long for the others.
        answer = receive(connection, ARRIVAL + 10 * BEAT)
        if "end" in answer:
            raise UserError(str(answer["end"]))
        state = connection.recv_bytes(MOST_STATE)
    except (OSError, EOFError):
        raise UserError(f"{chief} has ended") from None
    return Met({0: connection}, answer["port"], state)
