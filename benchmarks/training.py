"""How fast and how accurate is the training beside Keras' `fit` and PyTorch?

    python -m benchmarks.training [--rounds 5] [--draw]

Every round runs each candidate once, in turn, so that a machine that drifts drifts for all; ratios
are taken round by round, and each round has another seed. The same work (5 epochs of 64) by
Model.fit in the plain script, as TensorFlow comes, which leaves oneDNN off on a CPU without VNNI,
and the other way round; by the engine keras; by the kernels, the widest that the CPU has and those
for AVX2; and by PyTorch, where `.venv-torch` exists (see benchmarks/README.md). The recipes, the
long one in the first rounds only. Beside it a matrix product, which says what dense arithmetic
alone would take.

Writes results/training.csv, results/arithmetic.csv and results/training.png. Needs `make repro`'s
data. `--draw` draws the picture from the rows that there are.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.rows import (
    FIRST_SEED,
    RESULTS,
    Rows,
    append,
    last_line,
    markdown,
    names,
    of,
    ours,
    parser,
    plain,
    ranged,
    ratios,
    read,
    spread,
)
from cnn import kernels
from cnn.errors import UserError, run
from cnn.kernels import build
from tools import recipe

FIT = "Keras fit"
RECIPES = {"fast": 5, "accurate": 1}  # name: rounds at most; the latter takes minutes
TORCH = Path(".venv-torch/bin/python")
# Multiplications and additions of one image, forward and twice as much backward, without the
# gradient of the first layer's input.
FLOP_PER_IMAGE = 2 * (26**2 * 32 * 9 * 2 + 11**2 * 64 * 288 * 3 + (1600 * 128 + 128 * 10) * 3)
IMAGES = 5 * 54_000


def other_switch() -> tuple[str, str]:
    """Return ("on", "1") or ("off", "0"), whichever TensorFlow does not choose on this CPU."""
    on = "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")  # avx512_vnni or avx_vnni
    return ("off", "0") if on else ("on", "1")


def candidates(number: int, seed: int, folder: str) -> dict[str, list[object]]:
    """Return {name: command} of what runs in a round."""
    script = plain(folder, "--seed", seed)
    word, switch = other_switch()
    found = {
        FIT: script,
        f"{FIT}, oneDNN {word}": ["env", f"TF_ENABLE_ONEDNN_OPTS={switch}", *script],
        "engine keras": ours(seed=seed, engine="keras"),
    }
    for place, level in enumerate(list(build.levels())[1 : kernels.widest() + 1]):
        forced = ["env", f"{kernels.VARIABLE}={level}", *ours(seed=seed)]
        found["default" if place + 1 == kernels.widest() else "default, AVX2 alone"] = forced
    for name, most in RECIPES.items():
        if number <= most:
            found[f"recipe {name}"] = ours(**recipe.load(name)["train"], seed=seed)
    if TORCH.exists():
        found["PyTorch"] = [TORCH, "benchmarks/pytorch_training.py", "--seed", seed]
    return found


def measure(rounds: int) -> tuple[Rows, Rows]:
    """Return the rows of training.csv and of arithmetic.csv, measured anew."""
    rows: Rows = []
    arithmetic: Rows = []
    product = [sys.executable, "-m", "benchmarks.matrix_product"]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            seed = FIRST_SEED + number - 1
            flops = round(last_line([*product, "float32"])["flops"])
            append("arithmetic", arithmetic, precision="float32", flops=flops)
            for name, command in candidates(number, seed, folder).items():
                result = last_line(command)
                append(
                    "training",
                    rows,
                    round=number,
                    seed=seed,
                    candidate=name,
                    seconds=round(result["training"], 2),
                    accuracy=result["accuracy"],
                )
    return rows, arithmetic


def label(candidate: str) -> str:
    """Return a candidate's name as the table shows it."""
    kind, _, name = candidate.partition(" ")
    if kind == "recipe":
        return f"`make {name}`"
    return candidate.replace("Keras fit", "Keras' `fit`")


def table(rows: Rows, arithmetic: Rows = ()) -> str:
    """Return the table of training.csv; without arithmetic.csv, a column is left out."""
    limits = {
        kind: FLOP_PER_IMAGE
        * IMAGES
        / statistics.median(of(arithmetic, kind, "flops", "precision"))
        for kind in names(arithmetic, "precision")
    }
    titles = ["", "n", "seconds, median", "against Keras' `fit`, median (range)"]
    titles += ["of it dense arithmetic"] if limits else []
    lines = []
    for name in names(rows):
        measured = of(rows, name, "seconds")
        seconds = statistics.median(measured)
        line = [label(name), len(measured), f"{seconds:.1f}", ranged(ratios(rows, name, FIT))]
        if limits:
            limit = limits["float32"]
            whole = not name.startswith("recipe")  # other arithmetic
            line.append(f"{limit / seconds:.0%}".replace("%", " %") if whole else "")
        lines.append([*line, spread(of(rows, name, "accuracy"))])
    seeds = names(rows, "seed")
    text = f"n rounds, each with another seed ({seeds[0]} to {seeds[-1]})."
    if limits:
        times = ", ".join(f"{seconds:.1f} s in {kind}" for kind, seconds in limits.items())
        text += (
            " *Of it dense arithmetic*: the share of the time that all multiplications and"
            f" additions would take at the speed of a large matrix product ({times}):"
            " above 100 %, since gradients through a maximum and a ReLU are mostly zeros, and the"
            " kernels pass over those."
        )
    return f"{markdown([*titles, 'test accuracy, mean ± standard deviation'], lines)}\n\n{text}"


def cost_and_result(rows: Rows, name: str) -> str:
    """Return what the recipe `name` costs and gives, as its file says it.

    Raises
    ------
    UserError
        It has not been measured.
    """
    candidate = f"recipe {name}"
    accuracies = of(rows, candidate, "accuracy")
    if not accuracies:
        raise UserError(f"{RESULTS}/training.csv has no row of '{candidate}'")
    return (
        f"{ranged(ratios(rows, candidate, FIT))} of the time of Keras' fit; "
        f"{spread(accuracies)} (n = {len(accuracies)} seeds)."
    )


def draw(rows: Rows, path: Path) -> None:
    """Draw time and accuracy side by side, a row per candidate, 900 pixels wide."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    from cnn.figures import PALETTE, set_style

    set_style()
    found = names(rows)
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
    reader = parser(__doc__)
    reader.add_argument("--draw", action="store_true", help="measure nothing")
    arguments = reader.parse_args(argv)
    if arguments.draw:
        rows = read("training")
    else:
        rows, arithmetic = measure(arguments.rounds)
        print(table(rows, arithmetic))
    draw(rows, RESULTS / "training.png")


if __name__ == "__main__":
    raise SystemExit(run(main))
