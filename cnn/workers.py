"""Train on several workers, which end together rather than hang, and never go wrong silently.

The workers have met (cnn/meeting.py). Their connections to the chief stay open: each side says once
a second that it is there, and how many steps it has computed its part of. Whoever notices that
another is gone tells the others, and each process ends with one line that names it. The gradients
go by TensorFlow's own servers, which are started after that.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from threading import Event, Lock, Thread

import numpy as np
from numpy.typing import NDArray

from cnn.errors import brief
from cnn.kernels import Recipe, Weights, load
from cnn.meeting import BEAT, Cluster, Met, meet, receive, send
from cnn.network import Network
from cnn.resume import State, pack, unpack
from cnn.runtime import start_tensorflow, tf

START = 20.0  # seconds in which TensorFlow's servers must have found each other
SILENCE = 15.0  # seconds without a sign of life
BEHIND = 30.0  # seconds that others wait for a worker's part of a step


class Team:
    """The workers that train together, as one of them sees it, once all have met."""

    def __init__(self, cluster: Cluster, met: Met):
        self.cluster, self.links, self.port = cluster, met.links, met.port
        self.results: dict[int, str] = {}  # of those that are done: the hash of their weights
        self.reached = 0  # how many rows this worker had ready
        self.released, self.sending = Event(), Lock()
        self.watcher = Thread(target=self._watch, daemon=True)
        self.watcher.start()

    @property
    def is_chief(self) -> bool:
        return self.cluster.index == 0

    @property
    def size(self) -> int:
        return len(self.cluster.addresses)

    def start_server(self) -> None:
        """Start TensorFlow's server, before anything else is done with TensorFlow."""
        chief, *others = self.cluster.addresses
        # The chief listens for the others at its own address, and for TensorFlow at another port.
        addresses = [f"{chief.rpartition(':')[0]}:{self.port}", *others]
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": addresses}),
            task_type="worker",
            task_id=self.cluster.index,
            rpc_layer="grpc",
        )
        # TensorFlow would wait for an hour, and nothing of Python's runs meanwhile: no watch.
        context = import_module("tensorflow.python.eager.context").context()
        jobs = tf.compat.v1.ConfigProto().experimental.coordination_config.coordinated_job_list
        jobs.add(name="worker", num_tasks=self.size)
        context.configure_coordination_service(
            "standalone",
            service_leader="/job:worker/replica:0/task:0",
            cluster_register_timeout_in_ms=int(1000 * START),
            coordinated_jobs=list(jobs),
        )
        context.coordination_service.cluster_register_with_barrier = True
        tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)

    def train(
        self,
        network: Network,
        recipe: Recipe,
        weights: Weights,
        images: NDArray,
        labels: NDArray,
        order: NDArray,
        first_step: int,
        rates: NDArray,
        alphas: NDArray,
        threads: int,
        room: None = None,
    ) -> tuple[NDArray, int]:
        """Train some steps as `Kernels.train` does, of each of them this worker's shards.

        The workers' rows are a branch of the tree each; its upper part is added on every worker, of
        what all have gathered, so that the bytes are those of one.
        """
        kernels, size = load(), recipe.batch_size
        losses, correct = np.zeros(len(rates), np.float32), 0
        for number in range(len(rates)):
            batch, step = order[number * size : (number + 1) * size], first_step + number
            row = kernels.shard_gradients(
                network, recipe, weights, images, labels, batch, step,
                self.cluster.index, self.size, threads,
            )  # fmt: skip
            losses[number], right = kernels.apply(
                network, recipe, weights, step, rates[number], alphas[number], self.gather(row)
            )
            correct += right
        return losses, correct

    def gather(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows, float32 (p,) each, of all workers as (W, p), in their order."""
        self.reached += 1
        return tf.raw_ops.CollectiveGatherV2(
            input=row[np.newaxis],
            group_size=self.size,
            group_key=1,
            instance_key=1,
            ordering_token=[],
            timeout_seconds=BEHIND + SILENCE,  # the watch is sooner, and knows who
        ).numpy()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave it to the watch to say what happened when TensorFlow loses another worker."""
        try:
            yield
        except tf.errors.OpError as error:
            time.sleep(SILENCE + 2 * BEAT)
            cause = " ".join(str(error).split())
            self.end(f"the workers have lost each other: {brief(cause, 200)}")

    def agree(self, weights: Iterable[NDArray]) -> None:
        """Wait until all are done; end all unless they have the same weights, to the bit."""
        result = hashlib.sha256(b"".join(each.tobytes() for each in weights)).hexdigest()
        if not self.is_chief:
            self._tell(self.links[0], done=result)
            return
        while len(self.results) < len(self.links):
            time.sleep(BEAT / 20)
        for index, other in self.results.items():
            if other != result:
                self.end(f"{self.cluster.name(index)} has other weights than the chief")

    def part(self) -> None:
        """Let the workers go, as the chief; as a worker, wait until the chief does."""
        if self.is_chief:
            for connection in self.links.values():
                self._tell(connection, bye=True)
        else:
            self.released.wait()

    def end(self, line: str) -> None:
        """Tell the others, say it here, and end this process: its main thread is in TensorFlow."""
        for connection in self.links.values():
            self._tell(connection, end=line)
        print(f"error: {line}; start it again, it goes on", file=sys.stderr, flush=True)
        os._exit(1)

    def _tell(self, connection: Connection, **message: object) -> None:
        with suppress(OSError), self.sending:  # what is gone, the watch notices
            send(connection, **message)

    def _watch(self) -> None:
        """Send and take signs of life until the chief lets the workers go."""
        numbers = {connection: index for index, connection in self.links.items()}
        now = beaten = moved = time.monotonic()
        heard, steps = dict.fromkeys(self.links, now), dict.fromkeys(self.links, 0)
        before: dict[int, int] = {}
        while numbers:
            if now - beaten >= BEAT:
                beaten = now
                for connection in numbers:
                    self._tell(connection, steps=self.reached)
            for connection in wait(list(numbers), timeout=BEAT / 4):
                index = numbers[connection]
                try:
                    message = receive(connection, 0)
                except (OSError, EOFError, ValueError):
                    if self.released.is_set() or index in self.results:
                        del numbers[connection]
                        continue
                    self.end(f"{self.cluster.name(index)} has ended")
                if "end" in message:
                    self.end(str(message["end"]))
                if "bye" in message:
                    self.released.set()
                    return
                heard[index] = time.monotonic()
                steps[index] = message.get("steps", steps[index])
                if "done" in message:
                    self.results[index] = str(message["done"])
            held = time.monotonic() - now
            now += held
            if held > 2 * BEAT:  # this process itself was held up
                heard = {index: then + held for index, then in heard.items()}
                moved += held
            for index in numbers.values():
                if now - heard[index] > SILENCE:
                    self.end(f"{self.cluster.name(index)} has not answered for {SILENCE:.0f} s")
            counts = steps | {self.cluster.index: self.reached}
            if counts != before:
                before, moved = counts, now
            last = min(counts, key=counts.get)
            # Where all have reached the same step, it takes what it takes.
            waited_for = counts[last] < max(counts.values()) and last not in self.results
            if self.is_chief and waited_for and now - moved > BEHIND:
                self.end(
                    f"{self.cluster.name(last)} has kept the others waiting for {BEHIND:.0f} s"
                )


def together(team: Team | None) -> AbstractContextManager[None]:
    """Return what a training with a team runs in; nothing for one that trains alone."""
    return team.together() if team else nullcontext()


def assemble(
    cluster: Cluster, identity: Mapping[str, str], state: State | None
) -> tuple[Team | None, State | None]:
    """Return the team, TensorFlow's servers started, and the state from which all go on.

    A process that trains alone has no team, and needs no TensorFlow.

    Raises
    ------
    UserError
        A worker did not come in time, or trains something else than the chief.
    """
    if len(cluster.addresses) == 1:
        return None, state
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its servers tell of all that they do
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # it gathers, and computes nothing
    start_tensorflow()
    met = meet(cluster, identity, pack(state, identity) if state else b"")
    team = Team(cluster, met)
    with team.together():
        team.start_server()
    return team, unpack(met.state)[0] if met.state else None
