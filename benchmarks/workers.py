"""Train on several workers: the bytes, the time of a step, and what becomes of faults.

    python -m benchmarks.workers [--workers 1 2 4 8] [--rates 0 1000] [--recipe accurate]
    python -m benchmarks.workers --delays 0 1 20
    python -m benchmarks.workers --faults 10

All workers run on this machine, in a network namespace of their own (Linux, as root, with `ip` and
`tc`), which all of them share and which carries so many Mbit/s; 0 is no limit. Reads what
`make repro` leaves. Each row has the hash of the model; the program stops if it is not that of one
worker. A recipe is trained so as well, without a limit. With --faults each fault is tried so many
times on a small training of two workers: all must end within a minute, with one line each, and the
next run, alone, must give the bytes of an undisturbed one. With --delays each worker has a network
of its own, and a packet takes so many milliseconds to another's.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from threading import Thread

from benchmarks import delay
from benchmarks.rows import ROOT, Rows, append, count, markdown, names, write_params
from cnn import data
from cnn.errors import UserError, run
from tools.recipe import load
from tools.workers import config

TRAIN, VALIDATION = Path("data/prepared/train.npz"), Path("data/prepared/validation.npz")
PORT = 20000
BATCH = 64
DEFAULT = "default"
SMALL = {"epochs": 60, "filters": [8, 16], "dense_units": 32, "batch_size": 32, "shards": 2}
WITHIN = 60  # seconds in which all must have ended


def network(rate: int) -> None:
    """Let what is started from now on have a network of its own; `rate` in Mbit/s, 0 is none."""
    delay.unshare()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if rate:
        words = f"tc qdisc add dev lo root tbf rate {rate}mbit burst 256kb latency 200ms"
        subprocess.run(words.split(), check=True)


def first(folder: Path, source: Path, n: int) -> Path:
    """Write the first n images of a set; return the path."""
    images, labels, classes = data.load(source)
    path = folder / f"{n}.npz"
    data.save(path, data.Data(images[:n], labels[:n], classes))
    return path


def start(
    folder: Path,
    training: Path,
    validation: Path,
    n: int,
    index: int,
    params: str = "params.yaml",
    namespaces: list[int] | None = None,
) -> subprocess.Popen:
    """Start the train stage as worker `index` of n; it writes into `folder`.

    Its network is this process's, or its own, one of `namespaces`.
    """
    hosts = [delay.host(i) if namespaces else "127.0.0.1" for i in range(n)]
    addresses = [f"{host}:{PORT + i}" for i, host in enumerate(hosts)]
    told = {"TF_CONFIG": config(addresses, index)} if n > 1 else {}
    words = [f"--params={folder / params}", f"--train={training}", f"--validation={validation}"]
    words += [f"--model={folder / 'cnn.keras'}", f"--history={folder / 'training.csv'}"]
    words += [f"--environment={folder / 'environment.json'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if namespaces:
        pipes["preexec_fn"] = partial(delay.enter, namespaces[index])
    command = [sys.executable, "-m", "stages.train", *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | told, **pipes)


def train(
    folder: Path, training: Path, validation: Path, n: int, namespaces: list[int] | None = None
) -> tuple[str, list[float]]:
    """Train on n workers; return the hash of the model, and when the chief told of each epoch."""
    team = [
        start(folder, training, validation, n, index, namespaces=namespaces) for index in range(n)
    ]
    told = [time.perf_counter() for line in team[0].stdout if line.startswith("epoch ")]
    said = [process.communicate()[1] for process in team]
    if any(process.returncode for process in team):
        raise UserError(f"{n} workers failed: {' '.join(''.join(said).split())}")
    return hashlib.md5((folder / "cnn.keras").read_bytes()).hexdigest(), told


def measure(rows: Rows, workers: list[int], rate: int, recipe: str, steps: int) -> None:
    """Add a row per number of workers; a step's time is that of the second epoch's."""
    network(rate)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {} if recipe == DEFAULT else load(recipe)["train"]
        settings |= {"epochs": 2, "shards": max(workers)}
        write_params(folder / "params.yaml", train=settings)
        images = steps * settings.get("batch_size", BATCH)
        training, validation = first(folder, TRAIN, images), first(folder, VALIDATION, BATCH)
        models = {}
        for n in workers:
            models[n], told = train(folder, training, validation, n)
            append(
                "workers",
                rows,
                parameters=recipe,
                rate=rate,
                workers=n,
                shards=max(workers),
                milliseconds=f"{1000 * (told[1] - told[0]) / steps:.1f}",
                model=models[n],
            )
            if models[n] != models[workers[0]]:
                raise UserError(f"{n} workers give another model than {workers[0]}")


def measure_delays(rows: Rows, workers: list[int], milliseconds: list[float], steps: int) -> None:
    """Add a row per number of workers and delay; the model must be that of one worker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_params(folder / "params.yaml", train={"epochs": 2, "shards": max(workers)})
        training = first(folder, TRAIN, BATCH * steps)
        validation = first(folder, VALIDATION, BATCH)
        alone, _ = train(folder, training, validation, 1)
        for n in [n for n in workers if n > 1]:
            for each in milliseconds:
                with delay.delayed(n, each / 1000) as namespaces:
                    model, told = train(folder, training, validation, n, namespaces)
                append(
                    "worker_delays",
                    rows,
                    workers=n,
                    delay=f"{each:g}",
                    milliseconds=f"{1000 * (told[1] - told[0]) / steps:.1f}",
                    model=model,
                )
                if model != alone:
                    raise UserError(f"{n} workers give another model than one")


def table_of_delays(rows: Rows) -> str:
    """Return the table of the steps' times where packets take theirs."""
    delays, lines = names(rows, "delay"), []
    for n in names(rows, "workers"):
        times = {row["delay"]: float(row["milliseconds"]) for row in rows if row["workers"] == n}
        more = (times[delays[-1]] - times[delays[0]]) / (float(delays[-1]) - float(delays[0]))
        lines.append([n, *(f"{times[each]:.0f}" for each in delays), f"{more:.1f}"])
    titles = ["workers", *(f"ms a step, packets take {each} ms" for each in delays)]
    same = "the same to the bit" if len({row["model"] for row in rows}) == 1 else "DIFFERENT"
    return (
        f"{markdown([*titles, 'times the delay'], lines)}\n\nThe models are {same}. *Times the "
        f"delay*: what a step takes longer at {delays[-1]} ms than at {delays[0]} ms, in delays."
    )


def table(rows: Rows) -> str:
    """Return the table of the steps' times."""
    default = [row for row in rows if row["parameters"] == DEFAULT]
    rates, lines = names(default, "rate"), []
    for n in names(default, "workers"):
        times = {row["rate"]: row["milliseconds"] for row in default if row["workers"] == n}
        sent = (int(n) - 1) * 4 * (225_034 + 2)
        lines.append([n, f"{sent / 1e6:.1f}", *(times.get(rate, "") for rate in rates)])
    titles = ["workers", "MB sent by each per step"]
    titles += [f"ms a step, {rate + ' Mbit/s' if int(rate) else 'no limit'}" for rate in rates]
    trained, models = (
        {tuple(row[key] for key in keys) for row in rows}
        for keys in (("parameters",), ("parameters", "model"))
    )
    same = "is the same to the bit in all rows" if len(models) == len(trained) else "DIFFERS"
    also = "".join(f", and so is that of `{each}`" for (each,) in sorted(trained - {(DEFAULT,)}))
    return (
        f"{markdown(titles, lines)}\n\n{rows[0]['shards']} shards. All workers share two cores and "
        f"one loopback of that rate; the model {same}{also}."
    )


def fault(
    name: str, folder: Path, training: Path, other: Path, validation: Path
) -> tuple[float, list[str]]:
    """Let a training of two workers meet with a fault.

    Returns
    -------
    The seconds from the fault, or from the start, until all have ended; what is wrong with the end.
    """
    write_params(folder / "params.yaml", train=SMALL)
    write_params(folder / "other.yaml", train=SMALL | {"seed": 43})
    for file in ("cnn.keras", ".cnn.keras.resume"):
        (folder / file).unlink(missing_ok=True)
    chief = start(folder, training, validation, 2, 0)
    team, spoilt = [chief], None
    if name != "a worker never starts":
        worker = start(
            folder,
            other if name == "other data" else training,
            validation,
            2,
            1,
            "other.yaml" if name == "another seed" else "params.yaml",
        )
        team.append(worker)
    if not name.startswith(("other", "another", "a worker never")):
        for line in chief.stdout:
            if line.startswith("epoch 2/"):
                break
        spoilt = {"the chief": chief, "a worker": worker}.get(name.partition(" is")[0])
        if name == "the link is cut":
            subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        else:
            spoilt.send_signal(signal.SIGKILL if name.endswith("killed") else signal.SIGSTOP)
    began, said = time.monotonic(), {}
    left = [process for process in team if process is not spoilt]
    readers = [
        Thread(target=lambda process=process: said.update({process: process.communicate()[1]}))
        for process in left
    ]
    for reader in readers:
        reader.start()
    wrong = []
    for reader in readers:
        reader.join(max(0.1, WITHIN - (time.monotonic() - began)))
        if reader.is_alive():
            wrong.append(f"not ended after {WITHIN} s")
    taken = time.monotonic() - began
    for process in team:
        process.kill()
    if name == "the link is cut":
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for process in left:
        if process.wait() != 1 or said.get(process, "").count("\n") != 1:
            wrong.append(f"exit code {process.returncode}, said {said.get(process)!r}")
    if (folder / "cnn.keras").exists():
        wrong.append("a model was written")
    print(f"{name}: ended after {taken:.1f} s; {' / '.join(s.strip() for s in said.values())}")
    return taken, wrong


FAULTS = (
    "a worker is killed",
    "the chief is killed",
    "a worker is stopped",
    "the chief is stopped",
    "the link is cut",
    "a worker never starts",
    "another seed",
    "other data",
)


def try_faults(times: int) -> int:
    """Try each fault so many times; return how many ended otherwise than they must."""
    network(0)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training, other = (first(folder, TRAIN, n) for n in (1000, 1001))
        validation = first(folder, VALIDATION, BATCH)
        write_params(folder / "params.yaml", train=SMALL)
        undisturbed, _ = train(folder, training, validation, 1)
        for kind in FAULTS:
            for _ in range(times):
                taken, wrong = fault(kind, folder, training, other, validation)
                if train(folder, training, validation, 1)[0] != undisturbed:
                    wrong.append("the next run gave other bytes")
                append(
                    "worker_faults",
                    rows,
                    fault=kind,
                    seconds=f"{taken:.1f}",
                    problem="; ".join(wrong),
                )
    print(table_of_faults(rows))
    return sum(bool(row["problem"]) for row in rows)


def table_of_faults(rows: Rows) -> str:
    """Return how often each fault was tried, and how long all took to end."""
    lines = []
    for kind in names(rows, "fault"):
        tried = [row for row in rows if row["fault"] == kind]
        right = sum(not row["problem"] for row in tried)
        seconds = [float(row["seconds"]) for row in tried]
        lines.append([kind, len(tried), right, f"{min(seconds):.1f} to {max(seconds):.1f} s"])
    titles = ["fault", "tried", "ended as they must", "after"]
    return f"{markdown(titles, lines)}\n\nFrom the fault, or from the start where it is there then."


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--workers", type=count, nargs="+", default=[1, 2, 4, 8], metavar="W")
    arguments.add_argument("--rates", type=int, nargs="+", default=[0, 1000], metavar="MBIT")
    arguments.add_argument("--recipe", default="accurate", metavar="NAME")
    arguments.add_argument("--steps", type=count, default=100, metavar="N")
    arguments.add_argument("--faults", type=count, metavar="TIMES")
    arguments.add_argument("--delays", type=float, nargs="+", metavar="MS")
    given = arguments.parse_args(argv)
    if given.faults:
        return int(try_faults(given.faults) > 0)
    rows: Rows = []
    if given.delays:
        measure_delays(rows, given.workers, given.delays, given.steps)
        print(table_of_delays(rows))
        return 0
    for rate, recipe in [(0, given.recipe), *((rate, DEFAULT) for rate in given.rates)]:
        measure(rows, given.workers, rate, recipe, given.steps)
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
