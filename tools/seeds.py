"""Train a recipe with several seeds, an experiment per seed, in DVC's own queue.

    python -m tools.seeds [RECIPE] [--n 10] [--first 42] [--jobs J] [--name NAME] [-S KEY=VALUE]

`make seeds RECIPE=fast N=10` runs it. The experiments are named fast-42, fast-43, ...; without
RECIPE the parameters stay as they are and the names are default-42, default-43, ... J of DVC's
queue workers run them side by side, each on cores of its own: how many changes no byte.

An experiment that is there, made from the same code and parameters, is kept. Another one of that
name is replaced if it belongs to this commit; those of other commits stay.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from cnn.errors import INTERRUPTED, UserError, run
from cnn.params import read_yaml
from cnn.runtime import cores
from tools import recipe
from tools.queue_workers import end_idle_workers, running_workers, start_workers
from tools.runs import METRICS, SEED

DEFAULT = "default"
PARAMS = Path("params.yaml")
MOST_JOBS = 4  # unless more are asked for: each holds the images
POLL = 1  # seconds between two looks at the queue
GOING_ON = (
    "interrupted: the experiments go on without this watch, which the same command takes up again; "
    "'dvc queue stop --kill && dvc queue remove --queued' ends them"
)


def git(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *words], capture_output=True, text=True, encoding="utf-8")


def blob(revision: str, path: str | Path) -> str | None:
    """Return the text that `path` has in a commit; None where there is none."""
    shown = git("cat-file", "blob", f"{revision}:./{path}")
    return None if shown.returncode else shown.stdout


def accuracy_of(revision: str) -> float | None:
    """Return the accuracy that a commit has on record; None where it has none."""
    text = blob(revision, METRICS)
    return json.loads(text)["accuracy"] if text else None


def changed_params(settings: list[str]) -> dict:
    """Return params.yaml as DVC would change it by `-S` with each of `settings`."""
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, PARAMS.name)
        copy.write_bytes(PARAMS.read_bytes())
        apply_overrides(copy, settings)
        return read_yaml(copy)


def code() -> list[str]:
    """Return what a run depends on beside parameters and its own outputs, as Git's pathspecs."""
    stages = read_yaml("dvc.yaml")["stages"].values()
    dependencies = {path for stage in stages for path in stage.get("deps", [])}
    return ["dvc.yaml", "*.dvc", *sorted(dependencies), f":(exclude){PARAMS}", ":(exclude)reports"]


def is_same(revision: str, params: dict, paths: list[str]) -> bool:
    """Tell whether a commit has these parameters, and the code of the workspace."""
    from ruamel.yaml import YAML

    text = blob(revision, PARAMS)
    if text is None or YAML(typ="safe").load(text) != params:
        return False
    return git("diff", "--quiet", "--no-ext-diff", revision, "--", *paths).returncode == 0


def put_in_queue(repo, wanted: dict[str, list[str]]) -> tuple[dict[str, float], dict[str, str]]:
    """Queue the experiments {name: settings} that are neither there nor queued.

    Returns
    -------
    {name: accuracy} of those that are there, and {stash revision: name} of those in the queue.

    Raises
    ------
    UserError
        An experiment of that name is running with other code or parameters.
    """
    from dvc.repo.experiments.queue.remove import remove_tasks
    from dvc.repo.experiments.utils import remove_exp_refs, resolve_name

    queue, head, paths = repo.experiments.celery_queue, repo.scm.get_rev(), code()
    running = [entry for entry in queue.iter_active() if entry.name in wanted]
    if running and not running_workers(queue):  # killed, or the machine was off: these never end
        queue._mark_inactive_tasks_failure({entry: entry.name for entry in running})
        running = []
    in_queue = {entry.name: entry for entry in (*queue.iter_queued(), *running)}
    failed = [done.entry for done in queue.iter_failed()]
    references = resolve_name(repo.scm, wanted)
    there, waiting, missing = {}, {}, []
    for name, settings in wanted.items():
        params = changed_params(settings)
        entry, reference = in_queue.get(name), references[name]
        accuracy = accuracy_of(str(reference)) if reference else None
        if accuracy is not None and is_same(str(reference), params, paths):
            there[name] = accuracy
        elif entry and is_same(entry.stash_rev, params, paths):
            waiting[entry.stash_rev] = name
        elif entry in running:
            raise UserError(
                f"'{name}' is running with other code or parameters; wait until it has ended, or "
                f"end it with 'dvc queue kill {name}'"
            )
        else:
            missing.append(name)
            remove_tasks(queue, [old for old in (entry, *failed) if old and old.name == name])
            if reference and reference.baseline_sha == head:
                remove_exp_refs(repo.scm, [reference])
    for name in missing:
        with redirect_stdout(io.StringIO()):  # DVC shows all the settings
            repo.experiments.run(queue=True, name=name, params=wanted[name])
    waiting |= {each.stash_rev: each.name for each in queue.iter_queued() if each.name in missing}
    return there, waiting


def time_left(elapsed: float, done: int, total: int, jobs: int) -> str:
    """Return in words how long the rest takes, where `jobs` at a time took `elapsed` seconds."""
    rounds, all_rounds = -(-done // jobs), -(-total // jobs)
    if rounds == all_rounds:
        return "the rest soon" if done < total else "the last"
    seconds = elapsed / rounds * (all_rounds - rounds)
    return f"about {seconds:.0f} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"


def watch(queue, waiting: dict[str, str], jobs: int) -> dict[str, float | None]:
    """Print a line per experiment when it has ended; return {name: accuracy}, None if it failed.

    Raises
    ------
    UserError
        The workers have ended before the experiments.
    """
    began, left, found = time.monotonic(), dict(waiting), {}
    while left:
        time.sleep(POLL)
        at_work = running_workers(queue)  # before the results: the last one's is then among them
        try:
            ended = {done.entry.stash_rev: done.result for done in queue.iter_done()}
        except ValueError:  # a file that is being written
            continue
        for revision in left.keys() & ended:
            name, result = left.pop(revision), ended[revision]
            accuracy = accuracy_of(str(result.ref_info)) if result and result.ref_info else None
            found[name] = accuracy
            told = "failed" if accuracy is None else f"{accuracy:.2%}"
            rest = time_left(time.monotonic() - began, len(found), len(waiting), jobs)
            why = f"; 'dvc queue logs {name}' says why" if accuracy is None else ""
            print(f"{name}: {told}, {len(found)} of {len(waiting)}, {rest}{why}", flush=True)
        if left and not at_work:
            raise UserError(
                f"DVC's queue workers have stopped before {', '.join(left.values())}; "
                "the same command goes on"
            )
    return found


def train(repo, name: str, wanted: dict[str, list[str]], jobs: int) -> int:
    """Bring about the experiments {name: settings}, `jobs` at a time; return the exit code."""
    queue = repo.experiments.celery_queue
    end_idle_workers(queue)
    there, waiting = put_in_queue(repo, wanted)
    jobs = min(jobs, len(waiting))
    rest = f", {len(waiting)} to train, {jobs} at a time" if waiting else ""
    print(f"{name}: {len(there)} of {len(wanted)} runs are there{rest}", flush=True)
    found = {}
    if waiting:
        try:
            start_workers(queue, jobs)
            found = watch(queue, waiting, jobs)
        except KeyboardInterrupt:
            print(GOING_ON, file=sys.stderr)
            return INTERRUPTED
    accuracies = [value for value in (there | found).values() if value is not None]
    if len(accuracies) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"{name}: accuracy {mean:.3%} ± {deviation:.3%}, mean ± standard deviation")
        other = DEFAULT if name != DEFAULT else "OTHER"
        print(f"compare: python -m tools.compare '{other}-*' '{name}-*'")
    return int(None in found.values())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default=DEFAULT, help="in recipes/")
    parser.add_argument("--n", type=int, default=10, help="how many seeds; 10")
    parser.add_argument("--first", type=int, default=42, help="the first of them; 42")
    parser.add_argument("--jobs", type=int, help=f"at a time; one per core, {MOST_JOBS} at most")
    parser.add_argument("--name", help="of the experiments, in place of the recipe's")
    parser.add_argument("-S", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    arguments = parser.parse_args(argv)
    n, first, name = arguments.n, arguments.first, arguments.name or arguments.recipe
    most = cores() if hasattr(os, "sched_setaffinity") else 1  # else all jobs take all cores
    jobs = min(most, MOST_JOBS) if arguments.jobs is None else arguments.jobs
    bounds = {"n": (n, 1, 1000), "first": (first, 0, 2**32 - n), "jobs": (jobs, 1, most)}
    for flag, (value, least, greatest) in bounds.items():
        if not least <= value <= greatest:
            raise UserError(f"--{flag} is {value}; allowed: {least} to {greatest}")
    of_recipe = recipe.load(arguments.recipe) if arguments.recipe != DEFAULT else {}
    settings = [*recipe.settings(of_recipe), *arguments.settings]
    wanted = {f"{name}-{seed}": [*settings, f"{SEED}={seed}"] for seed in range(first, first + n)}

    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            return train(repo, name, wanted, jobs)
    except DvcException as error:
        why = f": {error.__cause__}" if error.__cause__ else ""
        raise UserError(" ".join(f"{error}{why}".split())) from None


if __name__ == "__main__":
    raise SystemExit(run(main))
