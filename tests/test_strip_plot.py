"""What the picture shows is read back from its Axes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from cnn.results import figures
from tests.test_two_recipes import A, B, runs
from tools.compare import strip_plot, two_recipes


def result_of(a, b, seeds=None):
    losses = [[round(1 - value, 3) for value in values] for values in (a, b)]
    result = two_recipes.compare(
        runs(list(a), log_loss=losses[0]), runs(list(b), seeds=seeds, log_loss=losses[1])
    )
    result["a"]["revision"], result["b"]["revision"] = "default-*", "a-rather-long-pattern-*"
    return result


@pytest.fixture
def ax():
    figures.set_style()
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def test_each_run_is_a_dot_and_a_set_has_its_mean_and_interval(ax):
    result = result_of(A, B)

    strip_plot.draw_runs(result, "accuracy", ax)

    for place, (dots, values) in enumerate(zip(ax.collections, (A, B), strict=True)):
        x, y = np.asarray(dots.get_offsets()).T
        np.testing.assert_allclose(x, values)
        assert len(set(y)) == len(values)  # side by side, though two values are the same
        assert np.all(np.abs(y - place) < 0.45)
    lines = [(list(line.get_xdata()), line.get_marker()) for line in ax.get_lines()]
    for side in ("a", "b"):
        found = result[side]["metrics"]["accuracy"]
        assert (found["interval_95"], "None") in lines
        assert ([found["mean"]], "D") in lines
    pairs = [list(line.get_xdata()) for line in ax.get_lines()][-3:]
    np.testing.assert_allclose(pairs, np.stack([A, B], axis=1))
    assert to_rgb(ax.get_lines()[0].get_color()) != to_rgb(ax.get_lines()[2].get_color())


def test_the_labels_lie_flat_and_count(ax):
    strip_plot.draw_runs(result_of(A, B[:1]), "log_loss", ax)
    ax.figure.canvas.draw()

    labels = ax.get_yticklabels()
    assert [label.get_text() for label in labels] == [
        "default-*\nn = 3",
        "a-rather-long-…ern-*\nn = 1",
    ]
    assert {label.get_rotation() for label in labels} == {0}
    assert ax.get_title(loc="left") == "Log loss, nats"
    assert len(ax.get_lines()) == 2  # one run has neither interval nor pair


@pytest.mark.parametrize("b", [B, B[:1]])
def test_the_picture_is_900_pixels_wide_and_the_same_each_time(tmp_path, b):
    result = result_of(A, b)

    for name in ("one.png", "folder/two.png"):
        strip_plot.save(result, tmp_path / name)

    with Image.open(tmp_path / "one.png") as image:
        width, height = image.size
        colors = {color for _, color in image.convert("RGB").getcolors(2**20)}
    assert width == 900
    assert 450 < height < 600
    assert len(colors) > 10
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "folder/two.png").read_bytes()


def test_a_path_that_cannot_be_written(tmp_path, refusal):
    (tmp_path / "file").touch()
    message = refusal(strip_plot.save, result_of(A, B), tmp_path / "file" / "x.png")
    assert message.startswith(f"{tmp_path}/file/x.png: cannot be written: ")
    assert not plt.get_fignums()
