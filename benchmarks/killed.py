"""Kill a recipe's training at random moments: do the bytes stay the same, and what is lost?

    python -m benchmarks.killed [--recipe accurate] [--kills 10] [--seed 0]

Clones HEAD into a temporary folder, which uses this clone's environment, and runs `make RECIPE`
there: once undisturbed, and once killed with kill -9, all its processes at once, and started again
each time. What is lost by a kill is the time since the state of the training was kept (models/), or
since the start where there was none yet. The program stops if the model is another one.
"""

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.rows import ROOT, Rows, append, count, markdown, of
from cnn import resume
from cnn.errors import UserError, run
from cnn.params import read_yaml
from tools.recipe import load
from tools.verify import clone, environment_for_clone, outputs

MODEL = "models/cnn.keras"


def started(here: Path, recipe: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["make", "--old-file=.venv/run", recipe],  # the environment is this clone's
        cwd=here,
        env=environment_for_clone() | {"DVC_SITE_CACHE_DIR": str(here.parent / "site")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen, here: Path) -> str:
    """Wait for a run that must succeed; return the hash of its model."""
    said = process.communicate()[1]
    if process.returncode:
        raise UserError(f"a run failed: {' '.join(said.split())}")
    return outputs(read_yaml(here / "dvc.lock")["stages"])[MODEL]


def kill(process: subprocess.Popen, here: Path, began: float) -> float:
    """Kill all processes of a run; return the seconds that are lost."""
    state = resume.path_beside(here / MODEL)
    os.killpg(process.pid, signal.SIGKILL)
    now = time.time()
    process.communicate()
    return now - max(began, state.stat().st_mtime if state.is_file() else 0.0)


def measure(rows: Rows, here: Path, recipe: str, kills: int, chance: random.Random) -> None:
    """Add a row of the undisturbed run, one per kill, and one of the run that ends."""

    def row(run: str, seconds: float, lost: object = "", model: str = "") -> None:
        append(
            "killed", rows, recipe=recipe, run=run, seconds=f"{seconds:.1f}", lost=lost, model=model
        )

    began = time.time()
    right = finished(started(here, recipe), here)
    whole = time.time() - began
    row("undisturbed", whole, model=right)
    subprocess.run(["git", "checkout", "--quiet", "."], cwd=here, check=True)
    # What ran is not to be had from DVC's cache.
    subprocess.run(["rm", "-rf", ".dvc/cache", MODEL], cwd=here, check=True)
    done = 0
    while True:
        began, process = time.time(), started(here, recipe)
        if done == kills:
            break
        try:
            process.wait(chance.uniform(0.5, 2 * whole / kills))
            break
        except subprocess.TimeoutExpired:
            done += 1
            lost = kill(process, here, began)
            row("killed", time.time() - began, f"{lost:.1f}")
    model = finished(process, here)
    row("last", time.time() - began, model=model)
    if model != right:
        raise UserError(f"killed {done} times, it gives another model")


def table(rows: Rows) -> str:
    """Return the table of what the kills cost."""
    recipe, (undisturbed,) = rows[0]["recipe"], of(rows, "undisturbed", "seconds", "run")
    lost, killed = (of(rows, "killed", column, "run") for column in ("lost", "seconds"))
    disturbed = sum(killed) + of(rows, "last", "seconds", "run")[0]
    models = {row["model"] for row in rows if row["model"]}
    lines = [
        ["undisturbed", f"{undisturbed:.0f} s", ""],
        [
            f"killed {len(killed)} times",
            f"{disturbed:.0f} s",
            f"{sum(lost) / len(lost):.1f} s ({min(lost):.1f} to {max(lost):.1f})",
        ],
    ]
    epoch = undisturbed / int(load(recipe)["train"]["epochs"])
    same = "The models are the same to the bit" if len(models) == 1 else "DIFFERENT models"
    return (
        f"{markdown([f'`make {recipe}`', 'all runs together', 'lost by a kill'], lines)}\n\n"
        f"{same}; an epoch takes {epoch:.0f} s."
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="accurate", metavar="NAME")
    parser.add_argument("--kills", type=count, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    arguments = parser.parse_args(argv)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "clone"
        clone(ROOT, here)
        (here / ".venv").symlink_to((ROOT / ".venv").resolve())
        chance = random.Random(arguments.seed)
        measure(rows, here, arguments.recipe, arguments.kills, chance)
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
