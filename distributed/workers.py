"""Train on several workers, to the same bytes: who they are, how they meet, what they exchange.

TF_CONFIG says who the workers are, as it does for TensorFlow. The chief, the first of them, listens
at its address. The others connect and send, by name, what their training depends on; the chief
refuses what differs from its own, and sends the state from which to go on. These connections stay:
in each step every worker sends the chief its row, and the chief sends all rows to every worker.

Whoever finds that another has ended, or does not answer, ends with one line that names it. The
chief first sends that line to the others, which wait longer for the chief than it does for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError, brief
from cnn.training.checkpoint import State, pack, unpack
from cnn.training.fingerprint import differences

VARIABLE = "TF_CONFIG"
ARRIVAL = 50.0  # seconds within which all workers must have come
GREETING = 5.0  # seconds within which one that connects says who it is
PATIENCE, SLOWER = 30.0, 10.0  # the chief waits so many seconds, or times its own part of a step
LONGER = 3.0  # times as long as that a worker waits for the chief
HELLO, STATE, ROWS, END = b"h", b"s", b"r", b"e"  # kinds of messages
HEADER = struct.Struct("!cQ")  # the kind of a message, and the bytes that follow
MOST_HELLO, MOST = 2**20, 2**40  # bytes that may follow
# What a connection raises that is no worker's.
STRANGE = (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, UserError)
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

    def refuse(what: str) -> UserError:
        return UserError(
            f"{VARIABLE} {what}; unset {VARIABLE} to train alone, or see docs/many-machines.md"
        )

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


def meet(
    cluster: Cluster, fingerprint: Mapping[str, str], state: State | None
) -> tuple[Team | None, State | None]:
    """Wait until all workers have come; return them, and the state from which all go on.

    A process that trains alone is no team.

    Parameters
    ----------
    state : the chief's; of no meaning on other workers.

    Raises
    ------
    UserError
        A worker did not come in time, or trains something else than the chief.
    """
    if len(cluster.addresses) == 1:
        return None, state
    if cluster.index == 0:
        links = _welcome(cluster, fingerprint, pack(state, fingerprint) if state else b"")
        return Team(cluster, links), state
    link, packed = _join(cluster, fingerprint)
    return Team(cluster, {0: link}), unpack(packed)[0] if packed else None


class Team:
    """The workers that train together, as one of them sees them once all have met.

    index, size : of this worker, 0 is the chief; of the team.
    links : connections by index: the chief's to all others, a worker's to the chief.
    """

    def __init__(self, cluster: Cluster, links: Mapping[int, socket.socket]):
        self.cluster, self.links = cluster, links
        self.index, self.size = cluster.index, len(cluster.addresses)
        self.gathered = time.monotonic()  # when the last step's rows were there

    def gather(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all workers, float32 (size, ...), in their order.

        Raises
        ------
        UserError
            Another worker has ended, or does not answer.
        """
        limit = max(PATIENCE, SLOWER * (time.monotonic() - self.gathered))
        if self.index:
            with self._reaching(0, LONGER * limit) as chief:
                with suppress(ConnectionError):  # it may have sent why it ended
                    send(chief, ROWS, row.tobytes())
                rows = np.frombuffer(receive(chief, ROWS), row.dtype).reshape(-1, *row.shape)
        else:
            rows = np.empty((self.size, *row.shape), row.dtype)
            rows[0], deadline = row, time.monotonic() + limit
            for index in self.links:
                with self._reaching(index, max(1.0, deadline - time.monotonic())) as worker:
                    rows[index] = np.frombuffer(receive(worker, ROWS), row.dtype)
            for index in self.links:
                with self._reaching(index, limit) as worker:
                    send(worker, ROWS, rows.tobytes())
        self.gathered = time.monotonic()
        return rows

    def agree(self, weights: NDArray[np.float32]) -> None:
        """Wait until all are done; raise UserError unless all have the same weights, to the bit."""
        digest = np.frombuffer(hashlib.sha256(weights.tobytes()).digest(), np.float32)
        digests = [row.tobytes() for row in self.gather(digest)]
        for index, other in enumerate(digests):
            if other != digests[0]:
                raise UserError(
                    f"{self.cluster.name(index)} has other weights than the chief, so no model is "
                    "written; look for what is wrong with it, set train.resume to false and start "
                    "again"
                )

    @contextmanager
    def _reaching(self, index: int, seconds: float) -> Iterator[socket.socket]:
        """Give the connection to another worker; name the worker where it fails."""
        link = self.links[index]
        link.settimeout(seconds)
        try:
            yield link
        except TimeoutError:
            problem = f"{self.cluster.name(index)} has not answered for {seconds:.0f} s"
        except (OSError, EOFError):
            problem = f"{self.cluster.name(index)} has ended"
        else:
            return
        problem += "; start it again, it goes on"
        if self.index == 0:
            _end([other for i, other in self.links.items() if i != index], problem)
        raise UserError(problem)


# ---- How they meet -------------------------------------------------------------------------------


def _welcome(
    cluster: Cluster, fingerprint: Mapping[str, str], state: bytes
) -> dict[int, socket.socket]:
    """Return the connections to all other workers, which have the chief's state then."""
    host, port = _endpoint(cluster.addresses[0])
    deadline = time.monotonic() + ARRIVAL
    links: dict[int, socket.socket] = {}
    problem = ""
    try:  # at all addresses, since the host's name may be another one's here
        listening = socket.create_server((host if host in LOOPBACK else "", port))
    except OSError as error:
        raise UserError(
            f"{cluster.addresses[0]}: the chief cannot listen there: {os.strerror(error.errno)}"
        ) from None
    with listening:
        while len(links) < len(cluster.addresses) - 1:
            listening.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = listening.accept()[0]
            except TimeoutError:
                absent = set(range(1, len(cluster.addresses))) - set(links)
                names = ", ".join(map(cluster.name, sorted(absent)))
                problem = problem or f"{names} did not come within {ARRIVAL:.0f} s"
                break
            try:
                _prepare(link)
                hello = json.loads(receive(link, HELLO, MOST_HELLO))
                index, theirs = hello["index"], dict(hello["fingerprint"])
                if type(index) is not int or not 0 < index < len(cluster.addresses):
                    raise ValueError
            except STRANGE:
                link.close()
                continue
            if index in links:
                problem = f"{cluster.name(index)} has come twice"
            elif changed := differences(fingerprint, theirs):
                name = changed[0]
                problem = (
                    f"{cluster.name(index)} has {name} {theirs.get(name)}, the chief "
                    f"{fingerprint.get(name)}"
                )
                problem += f"; {len(changed) - 1} more differ" if len(changed) > 1 else ""
            if problem:  # those who come soon get the reason too
                deadline = min(deadline, time.monotonic() + GREETING)
            links[index] = link
    if problem:
        _end(links.values(), problem)
        raise UserError(problem)
    for link in links.values():
        with suppress(OSError):  # it has ended meanwhile: the first step finds that out
            link.settimeout(PATIENCE)
            send(link, STATE, state)
    return links


def _join(cluster: Cluster, fingerprint: Mapping[str, str]) -> tuple[socket.socket, bytes]:
    """Return the connection to the chief, and the state that it has sent."""
    deadline, chief = time.monotonic() + ARRIVAL, cluster.name(0)
    while True:
        try:
            link = socket.create_connection(_endpoint(cluster.addresses[0]), timeout=GREETING)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise UserError(f"{chief} did not come within {ARRIVAL:.0f} s") from None
            time.sleep(GREETING / 20)
    try:
        _prepare(link)
        hello = {"index": cluster.index, "fingerprint": dict(fingerprint)}
        send(link, HELLO, json.dumps(hello).encode())
        # The chief may have come just before, and waits as long for the others.
        link.settimeout(ARRIVAL + 2 * GREETING)
        return link, receive(link, STATE)
    except (OSError, EOFError):
        raise UserError(f"{chief} has ended") from None


def _endpoint(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _prepare(link: socket.socket) -> None:
    link.settimeout(GREETING)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # send the end of a row at once


def _end(links: Iterable[socket.socket], reason: str) -> None:
    """Send other workers the reason why all end."""
    for link in links:
        with suppress(OSError):
            link.settimeout(GREETING)
            send(link, END, reason.encode())


# ---- Messages ------------------------------------------------------------------------------------


def send(link: socket.socket, kind: bytes, content: bytes) -> None:
    link.sendall(HEADER.pack(kind, len(content)) + content)


def receive(link: socket.socket, kind: bytes, most: int = MOST) -> bytearray:
    """Return the content of the next message, which has to be of this kind.

    Raises
    ------
    UserError
        The other side has sent why all end.
    EOFError, OSError
        It has ended, does not answer within the timeout, or sends something else.
    """
    found, size = HEADER.unpack(_read(link, HEADER.size))
    if found not in (kind, END) or size > most:
        raise OSError(f"a message {found} of {size} bytes")
    content = _read(link, size)
    if found == END:
        raise UserError(content.decode())
    return content


def _read(link: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        if not (count := link.recv_into(rest)):
            raise EOFError
        rest = rest[count:]
    return content
