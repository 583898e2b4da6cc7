"""Train a recipe with several seeds, an experiment per seed, in DVC's own queue.

    python -m tools.seeds [RECIPE] [--n 10] [--jobs 1]

`make seeds RECIPE=fast N=10` runs it. The experiments are named fast-42, fast-43, ...; without
RECIPE the parameters stay as they are and the names are default-42, default-43, ...

An experiment of this commit that is there, with the same code and parameters, is kept; another one
of that name is replaced. What else is in DVC's queue runs with them. Exit code 1 when a run failed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

from ruamel.yaml import YAML

from cnn.base.errors import UserError
from cnn.base.params import read_yaml
from cnn.base.program import INTERRUPTED, run
from tools import recipe
from tools.compare.revisions import git
from tools.compare.runs import METRICS
from tools.verify import environment_for_clone

DEFAULT, PARAMS, FIRST = "default", "params.yaml", 42
# What an experiment changes: its outputs, and its parameters, which are compared one by one.
CHANGED = (":(exclude)dvc.lock", ":(exclude)reports", f":(exclude){PARAMS}")
INTERRUPTION = (
    "interrupted: the experiments go on in DVC's queue, and the same command follows them again; "
    "'dvc queue stop --kill && dvc queue remove --queued' ends them"
)


def dvc(*words: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(["dvc", *words], env=environment_for_clone(), text=True, **kwargs)


def reference_to(name: str) -> str:
    """Return where DVC keeps experiment `name` of HEAD."""
    head = (git("rev-parse", "HEAD") or b"").decode().strip()
    return f"refs/exps/{head[:2]}/{head[2:]}/{name}"


def accuracy_of(name: str, changes: dict[str, dict]) -> float | None:
    """Return the accuracy of experiment `name` of HEAD; None where none has this code or params.

    `changes` is {section: {key: value}}, what differs from params.yaml.
    """
    reference = reference_to(name)
    if git("diff", "--quiet", "--no-ext-diff", reference, "--", ".", *CHANGED) is None:
        return None
    recorded, metrics = (git("show", f"{reference}:./{path}") or b"" for path in (PARAMS, METRICS))
    given = {section: old | changes.get(section, {}) for section, old in read_yaml(PARAMS).items()}
    same = YAML(typ="safe").load(recorded) == given
    return json.loads(metrics)["accuracy"] if same and metrics else None


def train(wanted: dict[str, dict[str, dict]], jobs: int) -> None:
    """Queue the experiments {name: changes of params.yaml}, and follow the queue to its end."""
    status = dvc("queue", "status", capture_output=True).stdout
    waiting = re.findall(r"^\w{7} +(\S+) .*(?:Queued|Running)$", status, re.MULTILINE)
    for name in wanted:
        if name in waiting:  # DVC would lose one of two that have the same name
            continue
        git("update-ref", "-d", reference_to(name))  # DVC replaces none
        settings = [word for each in recipe.settings(wanted[name]) for word in ("-S", each)]
        if dvc("exp", "run", "--queue", "--quiet", "--name", name, *settings).returncode:
            raise UserError(f"'{name}': DVC did not queue it, for the reason above")
    dvc("exp", "run", "--run-all", "--jobs", str(jobs))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default=DEFAULT, help="in recipes/")
    parser.add_argument("--n", type=int, default=10, help="how many seeds, from 42; 10")
    parser.add_argument("--jobs", type=int, default=1, help="at a time, each on all cores; 1")
    arguments = parser.parse_args(argv)
    name, n, jobs = arguments.recipe, arguments.n, arguments.jobs
    for flag, value, most in (("n", n, 1000), ("jobs", jobs, 64)):
        if not 1 <= value <= most:
            raise UserError(f"--{flag} is {value}; allowed: 1 to {most}")
    chosen = recipe.load(name) if name != DEFAULT else {}
    wanted = {
        f"{name}-{seed}": chosen | {"train": chosen.get("train", {}) | {"seed": seed}}
        for seed in range(FIRST, FIRST + n)
    }
    found = {each: accuracy_of(each, changes) for each, changes in wanted.items()}
    missing = {each: wanted[each] for each, accuracy in found.items() if accuracy is None}
    print(f"{name}: {n - len(missing)} of {n} runs are there", flush=True)
    if missing:
        if not os.getcwd().isascii():
            raise UserError(
                f"{os.getcwd()}: DVC's queue works in no folder with letters beyond ASCII in its "
                "path (treeverse/dvc#3629); move the project"
            )
        try:
            train(missing, jobs)
        except KeyboardInterrupt:
            print(INTERRUPTION, file=sys.stderr)
            return INTERRUPTED
        found |= {each: accuracy_of(each, changes) for each, changes in missing.items()}
    accuracies = [accuracy for accuracy in found.values() if accuracy is not None]
    if len(accuracies) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"{name}: accuracy {mean:.3%} ± {deviation:.3%}, mean ± standard deviation")
        other = DEFAULT if name != DEFAULT else "OTHER"
        print(f"compare: python -m tools.compare '{other}-*' '{name}-*'")
    if failed := [each for each, accuracy in found.items() if accuracy is None]:
        raise UserError(f"{', '.join(failed)}: failed; 'dvc queue logs {failed[0]}' says why")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
