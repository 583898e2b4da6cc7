"""Run `dvc repro` with the training on several workers of this machine: the same bytes.

    python -m tools.workers N [STAGE ...]

The chief of the N workers is `dvc repro` itself, which writes all outputs; the others run the train
stage's own command. N is a power of two that divides `train.shards`. To try what
docs/many-machines.md describes for several machines; on one, a training alone uses all cores too.

Exit code: that of `dvc repro`, or 1 where another worker failed.
"""

import argparse
import json
import re
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from threading import Thread

from cnn.base.errors import UserError
from cnn.base.params import load, read_yaml
from cnn.base.program import INTERRUPTED, environment_with_python, run
from cnn.training.params import TrainParams
from distributed.workers import VARIABLE, cluster_in

STAGE = "train"
GRACE = 30.0  # seconds that the others have to end after the chief


def free_addresses(n: int) -> list[str]:
    """Return n addresses of this machine at which nobody listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def config(addresses: list[str], index: int) -> str:
    """Return TF_CONFIG of a worker."""
    task = {"type": "worker", "index": index}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


def command_of(stage: str) -> list[str]:
    """Return the command of a stage in dvc.yaml, with the values of params.yaml put in place."""
    params = read_yaml("params.yaml")
    command = re.sub(
        r"\$\{(\w+)\.(\w+)\}",
        lambda match: str(params[match[1]][match[2]]),
        read_yaml("dvc.yaml")["stages"][stage]["cmd"],
    )
    return shlex.split(command)


def print_named(process: subprocess.Popen, name: str) -> Thread:
    """Print what a process prints, each line behind its name, until it ends."""

    def copy() -> None:
        for line in process.stdout:
            print(f"{name}: {line}", end="", file=sys.stderr, flush=True)

    thread = Thread(target=copy, daemon=True)
    thread.start()
    return thread


def start(addresses: list[str], index: int, command: list[str], **kwargs) -> subprocess.Popen:
    environment = environment_with_python() | {VARIABLE: config(addresses, index)}
    return subprocess.Popen(command, env=environment, **kwargs)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n", metavar="N", type=int, help="workers, the chief among them")
    parser.add_argument("stages", metavar="STAGE", nargs="*", help="as `dvc repro` takes them")
    arguments = parser.parse_args(argv)
    n = arguments.n
    if n < 2:
        raise UserError(f"N is {n}; allowed: 2 or more, and 'dvc repro' trains on one")
    addresses = free_addresses(n)
    shards = load("params.yaml", STAGE, TrainParams).shards
    cluster_in({VARIABLE: config(addresses, 0)}, shards)  # refuses what cannot be shared
    # The others read what prepare writes.
    done = subprocess.run(["dvc", "repro", "--quiet", "prepare"], env=environment_with_python())
    if done.returncode:
        return done.returncode

    command, pipes = command_of(STAGE), {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    others = {
        f"worker {index}": start(addresses, index, command, text=True, **pipes)
        for index in range(1, n)
    }
    readers = [print_named(process, name) for name, process in others.items()]
    chief = start(addresses, 0, ["dvc", "repro", *arguments.stages])
    try:
        code = chief.wait()
        if not code and all(process.poll() is None for process in others.values()):
            print("the training was up to date: no worker was needed")
            return 0
        codes = [process.wait(GRACE) for process in others.values()]
    except subprocess.TimeoutExpired:
        codes = [1]
    except KeyboardInterrupt:  # sent to all of them
        chief.wait()
        return INTERRUPTED
    finally:
        for process in others.values():  # they write nothing
            process.kill()
        for reader in readers:
            reader.join()
    return code or int(any(codes))


if __name__ == "__main__":
    raise SystemExit(run(main))
