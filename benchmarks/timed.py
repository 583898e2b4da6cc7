"""Run a command and print one JSON line: seconds, and the peak memory of its processes in bytes.

    python -m benchmarks.timed COMMAND ...

A small program of its own: a new process counts its parent's memory as its own at first.
"""

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    began = time.perf_counter()
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak": peak}))


if __name__ == "__main__":
    main()
