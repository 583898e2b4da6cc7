"""How fast and how accurate is the training beside Keras' `fit` and PyTorch?

    python -m benchmarks.training [--rounds 10] [--draw]

Each round has another seed. 5 epochs of 64 by Model.fit in the plain script, as TensorFlow comes,
which leaves oneDNN off on a CPU without VNNI, and the other way round; by the engine keras; by the
kernels, the widest that the CPU has and those for AVX2; and by PyTorch, where `.venv-torch` exists
(see benchmarks/README.md). Both engines of ours move the images, the plain script and PyTorch do
not. The recipes. All in the first five rounds, and what takes seconds in the others too.
Dense arithmetic is the time of all multiplications and additions at the speed of a large matrix
product, by numpy.

Writes results/training.csv and results/training.png. Needs `make repro`'s data. `--draw` draws the
picture from the rows that there are.
"""

import statistics
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.commands import ours, plain, result_of
from benchmarks.harness import Candidate, Rows, markdown, names, of, ranged, ratios, spread
from cnn import kernels
from cnn.base.errors import UserError
from cnn.base.program import run
from cnn.kernels import build
from tools import recipe

FIT, ARITHMETIC = "Keras fit", "dense arithmetic"
ROUNDS, FIRST_ROUNDS = 10, 5
SECONDS = ("recipe fast",)  # in all rounds
TORCH = Path(".venv-torch/bin/python")
# Multiplications and additions of one image, forward and twice as much backward, without the
# gradient of the first layer's input.
FLOP_PER_IMAGE = 2 * (26**2 * 32 * 9 * 2 + 11**2 * 64 * 288 * 3 + (1600 * 128 + 128 * 10) * 3)
IMAGES = 5 * 54_000
SIDE = 2048  # of the matrices whose product shows how fast dense arithmetic is


def commands(folder: str) -> dict[str, Callable[[int], list[object]]]:
    """Return {candidate: its command for a seed}; the plain script writes into `folder`."""
    # avx512_vnni or avx_vnni: TensorFlow then switches oneDNN on by itself.
    on = "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    switch = f"TF_ENABLE_ONEDNN_OPTS={int(not on)}"
    found = {
        FIT: lambda seed: plain(folder, "--seed", seed),
        f"{FIT}, oneDNN {'off' if on else 'on'}": lambda seed: [
            *("env", switch),
            *plain(folder, "--seed", seed),
        ],
        "engine keras": lambda seed: ours(seed=seed, engine="keras"),
    }
    widest = kernels.widest()
    for place, level in list(enumerate(build.levels()))[1 : widest + 1]:
        variable = f"{kernels.VARIABLE}={level}"
        found["default" if place == widest else "default, AVX2 alone"] = (
            lambda seed, variable=variable: ["env", variable, *ours(seed=seed)]
        )
    for name in ("fast", "accurate"):
        settings = recipe.load(name)["train"]
        found[f"recipe {name}"] = lambda seed, settings=settings: ours(**settings, seed=seed)
    if TORCH.exists():
        found["PyTorch"] = lambda seed: [TORCH, "benchmarks/pytorch_training.py", "--seed", seed]
    return found


def candidate(name: str, command: Callable[[int], list[object]]) -> Candidate:
    """Return a training as a candidate."""

    def measured(number: int) -> dict[str, object] | None:
        if number > FIRST_ROUNDS and name not in SECONDS:
            return None
        seed = harness.FIRST_SEED + number - 1
        result = result_of(command(seed))
        seconds = round(result["training"], 2)
        return {"seed": seed, "seconds": seconds, "accuracy": result["accuracy"]}

    return {"candidate": name}, measured


def arithmetic(number: int) -> dict[str, object]:
    """Return the time of all multiplications and additions at the speed of a matrix product."""
    matrix = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    fastest = min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=20))
    seconds = round(FLOP_PER_IMAGE * IMAGES * fastest / (2 * SIDE**3), 2)
    return {"seed": harness.FIRST_SEED + number - 1, "seconds": seconds, "accuracy": ""}


def label(candidate: str) -> str:
    """Return a candidate's name as the table shows it."""
    kind, _, name = candidate.partition(" ")
    if kind == "recipe":
        return f"`make {name}`"
    return candidate.replace("Keras fit", "Keras' `fit`")


def trained(rows: Rows) -> list[str]:
    """Return the candidates that train."""
    return [name for name in names(rows) if name != ARITHMETIC]


def table(rows: Rows) -> str:
    """Return the table of training.csv."""
    limit = statistics.median(of(rows, ARITHMETIC, "seconds"))
    titles = ["", "n", "seconds, median", "against Keras' `fit`, median (range)"]
    titles += ["of it dense arithmetic", "test accuracy, mean ± standard deviation"]
    lines = []
    for name in trained(rows):
        measured = of(rows, name, "seconds")
        seconds = statistics.median(measured)
        # A recipe's arithmetic is another.
        share = "" if name.startswith("recipe") else f"{100 * limit / seconds:.0f} %"
        line = [label(name), len(measured), f"{seconds:.1f}", ranged(ratios(rows, name, FIT))]
        lines.append([*line, share, spread(of(rows, name, "accuracy"))])
    return (
        f"{markdown(titles, lines)}\n\n"
        f"n seeds, from {names(rows, 'seed')[0]} on. *Of it dense arithmetic*: the share of the "
        "time that all multiplications and additions would take at the speed of a large matrix "
        f"product ({limit:.1f} s in float32); the kernels pass over gradients that are zeros."
    )


def cost_and_result(rows: Rows, name: str) -> str:
    """Return what the recipe `name` costs and gives, as its file states it.

    Raises
    ------
    UserError
        It has not been measured.
    """
    candidate = f"recipe {name}"
    accuracies = of(rows, candidate, "accuracy")
    if not accuracies:
        raise UserError(f"{harness.path_of('training')} has no row of '{candidate}'")
    return (
        f"{ranged(ratios(rows, candidate, FIT))} of the time of Keras' fit; "
        f"{spread(accuracies)} (n = {len(accuracies)} seeds)."
    )


def draw(rows: Rows, path: Path) -> None:
    """Draw time and accuracy side by side, one row per candidate, 900 pixels wide."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    from cnn.results.figures import PALETTE, set_style

    set_style()
    found = trained(rows)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 1.2 + 0.34 * len(found)), sharey=True, width_ratios=(5, 4)
    )
    colours = []
    for place, name in enumerate(found):
        own = name.startswith(("default", "recipe"))
        colours.append(sns.color_palette(PALETTE)[0] if own else "#777777")
        style = {"fmt": "o", "capsize": 3, "color": colours[-1]}
        times = ratios(rows, name, FIT)
        accuracies = [100 * share for share in of(rows, name, "accuracy")]
        middle = statistics.median(times)
        left.errorbar(middle, place, xerr=[[middle - min(times)], [max(times) - middle]], **style)
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0
        right.errorbar(statistics.mean(accuracies), place, xerr=deviation, **style)
    ticks = [0.1, 0.2, 0.5, 1, 2, 5]
    left.set(
        xscale="log",
        title="Training time",
        xlabel="against Keras' fit: median and range",
        yticks=range(len(found)),
        yticklabels=[label(name).replace("`", "") for name in found],
        ylim=(len(found) - 0.5, -0.5),
    )
    left.set_xticks(ticks, map(str, ticks))
    left.minorticks_off()
    left.axvline(1, color="#bbbbbb", zorder=0)
    right.set(title="Test accuracy", xlabel="per cent: mean ± standard deviation")
    right.tick_params(axis="y", left=False)
    for text, colour in zip(left.get_yticklabels(), colours, strict=True):
        text.set_color(colour)
    figure.savefig(path)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    reader = harness.parser(__doc__, ROUNDS)
    reader.add_argument("--draw", action="store_true", help="measure nothing")
    arguments = reader.parse_args(argv)
    if arguments.draw:
        rows = harness.read("training")
    else:
        with tempfile.TemporaryDirectory() as folder:
            candidates = [candidate(*each) for each in commands(folder).items()]
            candidates.append(({"candidate": ARITHMETIC}, arithmetic))
            rows = harness.measure("training", candidates, arguments.rounds, arguments.only)
        print(table(rows))
    draw(rows, harness.RESULTS / "training.png")


if __name__ == "__main__":
    raise SystemExit(run(main))
