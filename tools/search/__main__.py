"""Search for parameters that train a better model, and say honestly whether some were found.

    python -m tools.search SPACE.yaml [--trials 40] [--seed 0] [--jobs 1] [--keep TRIAL ...]

`make search SPACE=searches/augmentation.yaml` runs it. SPACE names ranges of parameters of `train`
(tools/search/space.py has the form); the others are those of params.yaml. Optuna proposes each
trial by what came of those before; what is worse than most, once half of the epochs of the shortest
trial are over, is stopped.

The best candidates are trained again with new seeds, beside the default, on the same validation
images; the one with the best mean is tested, once. Nothing is chosen by test images.

What was done lies in data/searches/SPACE/: a search that was killed goes on by the same command.
`--keep` does not search: it makes trials of that search DVC experiments, named SPACE-TRIAL.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from cnn import kernels
from cnn.base.errors import UserError
from cnn.base.files import write_json
from cnn.base.params import checked, read_section, read_yaml
from cnn.base.program import run
from cnn.data import sets
from cnn.model import archive
from cnn.training import fingerprint
from cnn.training.checkpoint import Row
from cnn.training.params import TrainParams
from stages import train as stage
from tools import recipe
from tools.seeds import check_experiments, run_experiments

try:
    from tools.search import picture, trainers, winner
    from tools.search import space as spaces
    from tools.search.study import Journal, Search, Trial
    from tools.search.trainers import DONE, FAILED, Name, Outcome, Task
except ModuleNotFoundError as error:
    if error.name != "optuna":
        raise
    INSTALL = "'pip install --require-hashes -r requirements-search.txt'"
    raise SystemExit(f"error: optuna is not installed; run {INSTALL}") from None

PARAMS, PREPARED, FOLDER = Path("params.yaml"), Path("data/prepared"), Path("data/searches")
FILES = PREPARED / "train.npz", PREPARED / "validation.npz"
DEFAULT = "default"
WIDTH = 80


class Training:
    """Trains by processes that are started when there is something to train."""

    def __init__(self, given: dict[str, object], jobs: int, stack: ExitStack):
        self.given, self.jobs, self.stack = given, jobs, stack
        self.trainers: list | None = None

    def params(self, values: dict[str, object]) -> TrainParams:
        return checked(PARAMS, "train", self.given | values, TrainParams)

    def __call__(
        self,
        tasks: dict[Name, Task],
        on_epoch: Callable[[Name, list[Row]], bool] = lambda name, history: True,
    ) -> Iterator[tuple[Name, Outcome]]:
        if tasks and self.trainers is None:
            self.trainers = self.stack.enter_context(trainers.started(self.jobs))
        yield from trainers.train_all(tasks, FILES, self.trainers or [], on_epoch)


def line(trial: Trial) -> str:
    """Return a trial as one line."""
    values = "  ".join(f"{name} {json.dumps(value)}" for name, value in trial.values.items())
    outcome = trial.outcome
    result = f"{trial.accuracy:7.2%}" + f" after epoch {len(outcome.history)}" * (
        outcome.state != DONE
    )
    return f"trial {trial.number:<3} {outcome.why or result}  {values}"


def search(
    space: dict, training: Training, journal: Journal, arguments: argparse.Namespace
) -> Search:
    """Try as many trials as asked for, side by side where there are jobs."""
    found = Search(space, training.given, arguments.seed, arguments.random)

    def trained(tried: dict, goes_on: Callable) -> Iterator[tuple[int, Outcome]]:
        return training({n: Task(training.params(values)) for n, values in tried.items()}, goes_on)

    for start in range(0, arguments.trials, arguments.jobs):
        round_ = found.round(min(arguments.jobs, arguments.trials - start), journal, trained)
        print("\n".join(map(line, round_)), flush=True)
    return found


def train_again(
    candidates: list[Trial], seeds: list[int], training: Training, journal: Journal, folder: Path
) -> dict[str, list[float]]:
    """Train the default and the candidates with other seeds; return their validation accuracies.

    A candidate that failed with one of them is left out. The models lie in the folder.
    """
    contenders = {DEFAULT: {}} | {f"trial {each.number}": each.values for each in candidates}
    outcomes: dict[str, Outcome] = {}
    tasks = {}
    for name, values in contenders.items():
        for seed in seeds:
            key, path = f"{name}, seed {seed}", model(folder, name, seed)
            known = journal.get(key, values)
            if known and (known.state == FAILED or path.is_file()):
                outcomes[key] = known
            else:
                tasks[key] = Task(training.params(values | {"seed": seed}), path)
    for key, outcome in training(tasks):
        journal.add(key, contenders[key.rpartition(", seed")[0]], outcome)
        outcomes[key] = outcome
        print(f"{key}: {outcome.why or f'{accuracy(outcome):.2%}'}", flush=True)
    found = {}
    for name in contenders:
        own = [outcomes[f"{name}, seed {seed}"] for seed in seeds]
        if all(outcome.state == DONE for outcome in own):
            found[name] = [accuracy(outcome) for outcome in own]
    return found


def accuracy(outcome: Outcome) -> float:
    return outcome.history[-1]["validation_accuracy"]


def model(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name.replace(' ', '-')}-{seed}.keras"


def test(folder: Path, name: str, seeds: list[int], data: sets.Data) -> list[float]:
    """Return the accuracy on test images of the models of a contender."""
    found = []
    for seed in seeds:
        read = archive.read(model(folder, name, seed), data.images.shape[1:], len(data.classes))
        probabilities = kernels.probabilities(read.network, read.weights, data.images)
        found.append(float((probabilities.argmax(axis=1) == data.labels).mean()))
    return found


def conclude(
    found: Search, again: dict[str, list[float]], looked_at: int, seeds: list[int], folder: Path
) -> dict[str, object]:
    """Test the winner, and return and write what is to be said."""
    default = again.pop(DEFAULT, None)
    if default is None or not again:
        what = "the default" if default is None else "each candidate"
        raise UserError(f"{what} failed with one of the seeds, as said above; change the ranges")
    name = winner.choose({name: np.array(values) for name, values in again.items()})
    data = sets.load(PREPARED / "test.npz")
    tested = {each: test(folder, each, seeds, data) for each in (DEFAULT, name)}
    verdict = winner.judge(np.array(tested[DEFAULT]), np.array(tested[name]), looked_at)
    number = int(name.split()[1])
    said = {
        "sentence": winner.sentence(name, verdict, len(data.labels), len(seeds)),
        "winner": {"trial": number, "values": found.trials[number].values},
        "seeds": seeds,
        "validation_accuracy": {DEFAULT: default} | again,
        "test_accuracy": tested,
        "verdict": verdict._asdict(),
        "importances": found.importances(),
    }
    write_json(folder / "verdict.json", said)
    picture.save(found.trials, said["importances"], folder / "search.png")
    return said


def keep(numbers: list[int], journal: Journal, name: str, committed: dict[str, object]) -> None:
    """Make trials DVC experiments, trained anew, in copies of the workspace.

    committed : what is not as in params.yaml but as in the commit (`recipe.on_commit`).
    """
    wanted = {}
    for number in numbers:
        values = journal.values(f"trial {number}")
        if values is None:
            raise UserError(f"--keep {number}: {journal.path} has no such trial")
        wanted[f"{name}-{number}"] = {"train": committed | values}
    check_experiments(run_experiments(wanted, jobs=1))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", type=Path, metavar="SPACE.yaml")
    parser.add_argument("--trials", type=int, default=40, help="how many; 40")
    parser.add_argument("--seed", type=int, default=0, help="of the proposals; 0")
    parser.add_argument("--jobs", type=int, default=1, help="side by side, sharing the cores; 1")
    parser.add_argument("--random", action="store_true", help="do not follow results")
    parser.add_argument("--candidates", type=int, default=3, help="that are trained again; 3")
    parser.add_argument("--seeds", type=int, default=5, help="that they are trained with; 5")
    parser.add_argument("--name", help="of the folder in data/searches, if not the space's")
    parser.add_argument("--keep", type=int, nargs="+", metavar="TRIAL", help="as experiments")
    arguments = parser.parse_args(argv)
    for flag, least, most in (
        ("trials", 2, 100_000), ("jobs", 1, 64), ("candidates", 1, 100), ("seeds", 2, 100),
    ):  # fmt: skip
        if not least <= getattr(arguments, flag) <= most:
            raise UserError(f"--{flag} is {getattr(arguments, flag)}; allowed: {least} to {most:,}")
    committed = recipe.on_commit({}).get("train", {})
    given = read_section(PARAMS, "train") | committed
    params = checked(PARAMS, "train", given, TrainParams)
    if params.engine != "exact":
        raise UserError(
            f"{PARAMS}: train.engine is {params.engine}; a search trains by exact alone"
        )
    space = spaces.read(arguments.space, given)
    name = arguments.name or arguments.space.stem
    folder = FOLDER / name
    inputs = dict(zip(("training data", "validation data"), FILES, strict=True))
    about = {
        "space": read_yaml(arguments.space),
        **fingerprint.of_training(params, inputs, stage.__file__, fingerprint.environment("exact")),
    }
    trials = folder / "trials.jsonl"
    if arguments.keep:
        if not trials.is_file():
            raise UserError(f"{trials}: is missing; search first, without --keep")
        keep(arguments.keep, Journal(trials, about), name, committed)
        return
    about |= {"seed": arguments.seed, "jobs": arguments.jobs, "random": arguments.random}
    seeds = [(params.seed + 1 + number) % 2**32 for number in range(arguments.seeds)]
    with ExitStack() as stack:
        training = Training(given, arguments.jobs, stack)
        journal = Journal(trials, about)
        found = search(space, training, journal, arguments)
        best = found.best(arguments.candidates)
        if not best:
            raise UserError(f"{arguments.space}: no trial but the default was trained to the end")
        print(f"the best {len(best)} again with {len(seeds)} new seeds, beside the default:")
        again = train_again(best, seeds, training, journal, folder)
    said = conclude(found, again, len(best), seeds, folder)
    print(f"\n{textwrap.fill(said['sentence'], WIDTH)}")
    print(f"wrote {folder}/verdict.json, search.png; --keep makes a trial a DVC experiment")


if __name__ == "__main__":
    sys.exit(run(main))
