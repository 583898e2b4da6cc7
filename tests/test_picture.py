"""A search is drawn: a dot per trial, the best so far, and what mattered."""

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from tools.search import picture
from tools.search.study import Trial
from tools.search.trainers import DONE, FAILED, STOPPED, Outcome


def trial(number: int, accuracy: float, state: str = DONE) -> Trial:
    row = {"epoch": 1, "validation_accuracy": accuracy, "validation_loss": 1.0}
    return Trial(number, {}, Outcome(state, [] if state == FAILED else [row]))


TRIALS = [
    trial(0, 0.990), trial(1, 0.985), trial(2, 0.5, STOPPED), trial(3, 0, FAILED), trial(4, 0.992),
]  # fmt: skip


def test_the_best_so_far_rises_and_what_failed_is_not_drawn():
    _, ax = plt.subplots()
    picture.draw_trials(TRIALS, ax)
    done, stopped = (collection.get_offsets() for collection in ax.collections)
    assert done.tolist() == [[0, 0.990], [1, 0.985], [4, 0.992]]
    assert stopped[:, 0].tolist() == [2]
    assert stopped[0, 1] == ax.get_ylim()[0]  # far below: at the edge
    (line,) = ax.get_lines()
    assert line.get_ydata().tolist() == [0.990, 0.990, 0.992]


def test_importances_stand_with_the_largest_on_top():
    _, ax = plt.subplots()
    picture.draw_importances({"dropout": 0.7, "epochs": 0.3}, ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["epochs", "dropout"]
    assert [bar.get_width() for bar in ax.patches] == [0.3, 0.7]


@pytest.mark.parametrize("trials", [TRIALS, [trial(0, 0, FAILED)]])
def test_the_picture_is_as_wide_as_a_readme(tmp_path, trials):
    picture.save(trials, {"dropout": 1.0} if len(trials) > 1 else {}, tmp_path / "search.png")
    assert Image.open(tmp_path / "search.png").size == (1000, 400)
