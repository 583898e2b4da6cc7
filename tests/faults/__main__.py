"""Break the pipeline on purpose and print how often it was tried: `make faults`.

    python -m tests.faults [--size small] [--only kills] [--seed 5]

A line for each kind: what was tried, what was survived. What was not is named on standard error,
and the exit code is 1. The same seed tries the same.
"""

import argparse
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from tests.faults import common

# Kinds before the first that starts threads: what is done in a copy of this process.
KINDS = ("kills", "system", "inputs", "downloads", "parameters", "models", "page")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--only", choices=KINDS, help="one kind of faults")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    arguments = parser.parse_args(argv)
    print(f"seed {arguments.seed}", flush=True)
    tried, survived = 0, 0
    for kind in [arguments.only] if arguments.only else KINDS:
        began, before = time.monotonic(), (tried, survived)
        module = import_module(f"tests.faults.{kind}")
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))  # not the user's own
            given = common.make(Path(folder))
            rng = np.random.default_rng([arguments.seed, KINDS.index(kind)])
            for fault in module.tries(given, arguments.size == "full", rng):
                tried += 1
                survived += not fault.problem
                if fault.problem:
                    print(f"{kind}: {fault.what}: {fault.problem}", file=sys.stderr, flush=True)
        print(
            f"{kind:<12} {tried - before[0]:>6,} tried  {survived - before[1]:>6,} survived  "
            f"{time.monotonic() - began:>6.1f} s",
            flush=True,
        )
    print(f"{'all':<12} {tried:>6,} tried  {survived:>6,} survived")
    return int(survived < tried)


if __name__ == "__main__":
    raise SystemExit(main())
