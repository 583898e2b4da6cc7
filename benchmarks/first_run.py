"""Measure what the README's two commands take on a fresh clone: time, download, room on the disk.

    python -m benchmarks.first_run

Clones HEAD into a temporary folder and runs there, once, `make repro`, `make test`, and `make
repro` once more with another learning rate: each needs what the one before left, so there are no
rounds. Neither uv nor pip has a cache. What is downloaded is what the network's interfaces
received.
"""

import os
import platform
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import ROOT, Rows, append, bare_parser, markdown
from cnn.base.errors import UserError
from cnn.base.program import cores, run
from tools.verify import clone

COMMANDS = {
    "`make repro`, the first time": "make repro",
    "`make test`, then": "make test",
    "`make repro` after a change of the training": "make repro",
}


def room(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk."""
    du = subprocess.run(["du", "-s", "-B1", folder], capture_output=True, text=True, check=True)
    return int(du.stdout.split()[0])


def received() -> int:
    """Return the bytes that all network interfaces but the loopback have received."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[0]) for line in lines if "lo:" not in line)


def measure(rows: Rows, here: Path, title: str, environment: dict[str, str]) -> None:
    """Run a command of COMMANDS in a clone and add its row."""
    before, loaded, began = room(here), received(), time.monotonic()
    done = subprocess.run(
        COMMANDS[title].split(), cwd=here, env=environment, stdout=subprocess.PIPE, text=True
    )
    seconds = time.monotonic() - began
    if done.returncode:
        print(done.stdout)
        raise UserError(f"'{COMMANDS[title]}' failed in a fresh clone")
    fetched = round((received() - loaded) / 1e6)
    row = {"round": 1, "what": title, "seconds": f"{seconds:.0f}", "megabytes": fetched}
    row |= {"disk": room(here) - before, "cores": cores(), "python": platform.python_version()}
    append("first_run", rows, row)


def table(rows: Rows) -> str:
    """Return the table of what the commands take."""
    lines = []
    for row in rows:
        seconds, fetched, disk = (float(row[key]) for key in ("seconds", "megabytes", "disk"))
        takes = f"{seconds / 60:.1f} min"
        downloads = f"{fetched / 1000:.1f} GB" if fetched else "–"
        lines.append([row["what"], takes, downloads, f"{disk / 1e9:.1f} GB" if fetched else "–"])
    return (
        f"{markdown(['', 'takes', 'downloads', 'on disk'], lines)}\n\nOn {rows[0]['cores']} cores, "
        f"with Python {rows[0]['python']} and nothing in a cache of uv's or pip's."
    )


def main(argv: list[str] | None = None) -> int:
    bare_parser(__doc__).parse_args(argv)
    rows: Rows = []
    # As in a fresh shell: no environment is active, and Python may keep what it compiles.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    environment["PIP_NO_CACHE_DIR"] = "1"  # handed to uv too
    own = str(ROOT / ".venv/bin")
    environment["PATH"] = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own
    )
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "clone"
        clone(ROOT, here)
        *first, changed = COMMANDS
        for title in first:
            measure(rows, here, title, environment)
        params = here / "params.yaml"
        rate = re.compile(r"(?<=\n  learning_rate: )\S+")
        params.write_text(rate.sub("0.0015", params.read_text()))
        measure(rows, here, changed, environment)
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
