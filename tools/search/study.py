"""The trials of a search: Optuna proposes, a journal keeps what came of each.

Nothing of Optuna's is stored. Proposals follow from the seed and from the results, which are the
same bytes on every run; so a search that was killed asks for the same trials again, takes from the
journal what came of them, and goes on.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from cnn.base.errors import UserError
from cnn.base.files import write_text
from cnn.training.checkpoint import Row
from tools.search import space as spaces
from tools.search.space import Space
from tools.search.trainers import DONE, FAILED, STOPPED, Outcome

RANDOM = 10  # trials that are drawn at random before results are followed
STATES = {DONE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}
Train = Callable[
    [dict[int, dict[str, object]], Callable[[int, list[Row]], bool]],
    Iterator[tuple[int, Outcome]],
]


class Trial(NamedTuple):
    """What was tried, {parameter: value}, and what became of it."""

    number: int
    values: dict[str, object]
    outcome: Outcome

    @property
    def accuracy(self) -> float:
        """Of the validation images, after the last epoch that was trained."""
        return self.outcome.history[-1]["validation_accuracy"] if self.outcome.history else 0.0

    @property
    def loss(self) -> float:
        return self.outcome.history[-1]["validation_loss"]


class Journal:
    """A line of JSON for each training that ended, below one that says what they depend on."""

    def __init__(self, path: Path, about: dict[str, object]):
        self.path = path
        self.outcomes: dict[str, tuple[object, Outcome]] = {}
        if path.is_file():
            head, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # but a half one
            other = [key for key, value in about.items() if json.loads(head).get(key) != value]
            if other:
                raise UserError(
                    f"{path}: is of another search ({', '.join(other)} differ); remove it to begin "
                    "anew, or give this one another --name"
                )
            for entry in map(json.loads, lines):
                self.outcomes[entry["name"]] = entry["values"], Outcome(*entry["outcome"])
            write_text(path, "\n".join([head, *lines, ""]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(about) + "\n")

    def get(self, name: str, values: object) -> Outcome | None:
        """Return what came of a training of these values."""
        found = self.outcomes.get(name)
        return found[1] if found and found[0] == json.loads(json.dumps(values)) else None

    def values(self, name: str) -> object:
        """Return the values of a training, None where there was none of that name."""
        return self.outcomes[name][0] if name in self.outcomes else None

    def add(self, name: str, values: object, outcome: Outcome) -> None:
        entry = {"name": name, "values": values, "outcome": outcome}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Search:
    """Trials in rounds of as many as are trained side by side.

    A round's results are told in the order of its trials when all have ended, and what is stopped
    early is measured by earlier rounds, so that the same seed gives the same trials.

    Parameters
    ----------
    default : the values of params.yaml, tried first where they lie in the space.
    at_random : whether results are not followed, to compare with.
    """

    def __init__(self, space: Space, default: dict[str, object], seed: int, at_random: bool):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = (
            RandomSampler(seed) if at_random else TPESampler(seed=seed, n_startup_trials=RANDOM)
        )
        # Half a schedule, be it the shortest, says more of itself than of the model to come.
        half = math.ceil(spaces.fewest_epochs(space, default) / 2)
        pruner = MedianPruner(n_startup_trials=RANDOM // 2, n_warmup_steps=max(2, half))
        self.space, self.default = space, {name: default[name] for name in space}
        self.trials: list[Trial] = []
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        if first := spaces.suggestion_of(space, self.default):
            self.study.enqueue_trial(first)

    def round(self, n: int, journal: Journal, train: Train) -> list[Trial]:
        """Return n further trials, trained or from the journal."""
        asked = {trial.number: trial for trial in (self.study.ask(self.space) for _ in range(n))}
        tried = {
            number: spaces.values_of(self.space, trial.params) for number, trial in asked.items()
        }
        known = {number: journal.get(f"trial {number}", tried[number]) for number in asked}
        outcomes = {number: outcome for number, outcome in known.items() if outcome}

        def goes_on(number: int, history: list[Row]) -> bool:
            report(number, history[-1])
            return not asked[number].should_prune()

        def report(number: int, row: Row) -> None:
            asked[number].report(row["validation_accuracy"], int(row["epoch"]))

        for number, outcome in outcomes.items():
            for row in outcome.history:
                report(number, row)
        missing = {number: tried[number] for number in asked if number not in outcomes}
        for number, outcome in train(missing, goes_on):
            journal.add(f"trial {number}", tried[number], outcome)
            outcomes[number] = outcome
        new = [Trial(number, tried[number], outcomes[number]) for number in asked]
        for trial in new:
            done = trial.outcome.state == DONE
            self.study.tell(
                trial.number, trial.accuracy if done else None, STATES[trial.outcome.state]
            )
        self.trials += new
        return new

    def best(self, n: int) -> list[Trial]:
        """Return the n best trials, each of other values, none of the default's."""
        done = [trial for trial in self.trials if trial.outcome.state == DONE]
        found: list[Trial] = []
        for trial in sorted(done, key=lambda trial: (-trial.accuracy, trial.loss)):
            if trial.values not in [self.default, *(each.values for each in found)]:
                found.append(trial)
        return found[:n]

    def importances(self) -> dict[str, float]:
        """Return each parameter's share of the variance of the accuracy (Hutter et al. 2014)."""
        finished = {trial.accuracy for trial in self.trials if trial.outcome.state == DONE}
        if len(finished) < 2:
            return {}
        return get_param_importances(self.study, evaluator=FanovaImportanceEvaluator(seed=0))
