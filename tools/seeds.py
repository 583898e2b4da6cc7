"""Train a recipe with several seeds, a DVC experiment per seed.

    python -m tools.seeds [RECIPE] [--n 10] [--jobs 2]

`make seeds RECIPE=fast N=10` runs it. The experiments are named fast-42, fast-43, ...; without
RECIPE they are named default-42, default-43, ..., of the parameters in params.yaml, but for a
recipe that DVC has left there (tools/recipe.py).

Several run at a time, each in a temporary copy of its own (`dvc exp run --temp`), and share the
cores out: trainings on a core each wait for nobody, and one computes while another loads or draws.
The last ones, if they are fewer, share out all.

An experiment of this commit that is there, with the same code and parameters, is kept; another one
of that name is replaced. Exit code 1 when a run failed.
"""

import argparse
import json
import os
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Lock

from ruamel.yaml import YAML

from cnn.base.errors import UserError
from cnn.base.params import read_yaml
from cnn.base.program import cores, environment_with_python, run, take_cores
from tools import recipe
from tools.compare.revisions import git, of_head
from tools.compare.runs import METRICS
from tools.recipe import PARAMS

DEFAULT, FIRST = "default", 42
# What an experiment changes: its outputs, and its parameters, which are compared one by one.
CHANGED = (":(exclude)dvc.lock", ":(exclude)reports", f":(exclude){PARAMS}")
MOST_JOBS = 4  # unless --jobs says more: each has the images in memory
DVC_INTERRUPTED = 252  # its exit code after Ctrl-C
STARTED = b"Reproducing experiment"  # DVC says so when it is done with the workspace


def accuracy_of(name: str, changes: dict[str, dict]) -> float | None:
    """Return the accuracy of experiment `name` of HEAD; None where none has this code or params.

    `changes` is {section: {key: value}}, what differs from params.yaml.
    """
    reference = of_head(name)
    if git("diff", "--quiet", "--no-ext-diff", reference, "--", ".", *CHANGED) is None:
        return None
    recorded, metrics = (git("show", f"{reference}:./{path}") or b"" for path in (PARAMS, METRICS))
    given = {section: old | changes.get(section, {}) for section, old in read_yaml(PARAMS).items()}
    same = YAML(typ="safe").load(recorded) == given
    return json.loads(metrics)["accuracy"] if same and metrics else None


def run_experiments(wanted: dict[str, dict[str, dict]], jobs: int) -> dict[str, float | None]:
    """Run the experiments {name: changes of params.yaml}, as many at a time as there are jobs.

    One of that name is replaced. The workspace stays as it is. Returns each one's accuracy, None
    where it failed.
    """
    if not os.getcwd().isascii():
        raise UserError(
            f"{os.getcwd()}: DVC runs experiments in a copy in no folder with letters beyond "
            "ASCII in its path (treeverse/dvc#3629); move the project"
        )
    environment, starting, over = environment_with_python(), Lock(), Event()
    running: set[subprocess.Popen] = set()
    places: SimpleQueue[int] = SimpleQueue()
    for place in range(jobs):
        places.put(place)

    full = len(wanted) // jobs * jobs

    def train_one(number: int, name: str) -> None:
        place = places.get()
        try:
            if number < full:
                take_cores(place, jobs)
            else:  # nobody comes after these: when the others have ended, all cores are theirs
                take_cores(number - full, len(wanted) - full)
            run_one(name)
        finally:
            places.put(place)

    def run_one(name: str) -> None:
        command = ["dvc", "exp", "run", "--temp", "--name", name, *recipe.words(wanted[name])]
        # DVC changes the workspace for a moment, and gives up where another one does.
        with starting:
            if over.is_set():
                return
            git("update-ref", "-d", of_head(name))  # DVC replaces none
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            running.add(process)
            for line in process.stdout:
                show(name, line)
                if line.startswith(STARTED):
                    break
        for line in process.stdout:
            show(name, line)
        if process.wait() == DVC_INTERRUPTED:
            over.set()
        running.remove(process)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for _ in pool.map(train_one, range(len(wanted)), wanted):
                pass
        except BaseException:  # they have had a Ctrl-C too, but no other signal
            over.set()
            for process in list(running):
                process.terminate()
            raise
    return {name: accuracy_of(name, changes) for name, changes in wanted.items()}


def check_experiments(found: dict[str, float | None]) -> None:
    """Raise UserError where an experiment failed."""
    if failed := [name for name, accuracy in found.items() if accuracy is None]:
        raise UserError(f"{', '.join(failed)}: failed, for the reason that its lines above give")


def show(name: str, line: bytes) -> None:
    """Print what a run says, a line at a time, after its name."""
    if text := line.decode(errors="replace").strip():
        print(f"{name}: {text}", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default=DEFAULT, help="in recipes/")
    parser.add_argument("--n", type=int, default=10, help="how many seeds, from 42; 10")
    parser.add_argument(
        "--jobs", type=int, help=f"at a time, sharing the cores; one per core, {MOST_JOBS} at most"
    )
    arguments = parser.parse_args(argv)
    name, n = arguments.recipe, arguments.n
    jobs = min(cores(), MOST_JOBS) if arguments.jobs is None else arguments.jobs
    for flag, value, most in (("n", n, 1000), ("jobs", jobs, 64)):
        if not 1 <= value <= most:
            raise UserError(f"--{flag} is {value}; allowed: 1 to {most}")
    chosen = recipe.load(name) if name != DEFAULT else {}
    chosen = recipe.on_commit(chosen | {"train": chosen.get("train", {}) | {"seed": FIRST}})
    wanted = {
        f"{name}-{seed}": chosen | {"train": chosen["train"] | {"seed": seed}}
        for seed in range(FIRST, FIRST + n)
    }
    found = {each: accuracy_of(each, changes) for each, changes in wanted.items()}
    missing = {each: wanted[each] for each, accuracy in found.items() if accuracy is None}
    print(f"{name}: {n - len(missing)} of {n} runs are there", flush=True)
    if missing:
        found |= run_experiments(missing, min(jobs, len(missing)))
    accuracies = [accuracy for accuracy in found.values() if accuracy is not None]
    if len(accuracies) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"{name}: accuracy {mean:.3%} ± {deviation:.3%}, mean ± standard deviation")
        other = DEFAULT if name != DEFAULT else "OTHER"
        print(f"compare: python -m tools.compare '{other}-*' '{name}-*'")
    check_experiments(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
