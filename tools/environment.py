"""Install locked packages into .venv, and say from the first second on how far it is.

    .venv/bin/python tools/environment.py requirements.txt

pip alone says nothing with --quiet, and hundreds of lines without. With uv on PATH, that installs,
and shows its own progress; it takes the same files, by the same hashes. Runs before any package is
there, so it imports none.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
LOCKED = re.compile(r"^[A-Za-z0-9_.-]+==", re.MULTILINE)
FETCHED = re.compile(r"^ *Downloading \S+(?: \(([\d.]+) (kB|MB|GB)\))?", re.MULTILINE)
TAKEN = re.compile(r"^Collecting ", re.MULTILINE)
MEGABYTES = {"kB": 0.001, "MB": 1.0, "GB": 1000.0}
LOOK, LINE = 0.5, 10.0  # seconds between two looks, and between two lines in a log


def megabytes(log: str) -> float:
    """Return what pip downloaded, by its own output; what came from its cache does not count."""
    return sum(float(size) * MEGABYTES[unit] for size, unit in FETCHED.findall(log) if size)


def report(log: str, most: int, unpacked: int, seconds: float) -> str:
    """Return how far pip is: `most` is an upper bound, since a package may be for other systems."""
    return (
        f"{len(TAKEN.findall(log))} of at most {most} packages fetched ({megabytes(log):,.0f} MB), "
        f"{unpacked} unpacked, {seconds:.0f} s"
    )


def uv() -> str | None:
    """Return the user's own uv; the one in .venv does not know how the user reaches packages."""
    found = shutil.which("uv")
    return None if found is None or Path(found).parent == BIN else found


def install_with_pip(file: str, terminal: bool) -> int:
    """Install with pip, saying how far it is; return its exit code."""
    command = [sys.executable, "-u", "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar=off", "--require-hashes", "-r", file]
    most = len(LOCKED.findall(Path(file).read_text(encoding="utf-8")))
    site = next(BIN.parent.glob("lib/python*/site-packages"))
    before = len(list(site.glob("*.dist-info")))
    began = said = time.monotonic()
    with tempfile.NamedTemporaryFile() as output:
        log = Path(output.name)

        def state() -> str:
            unpacked = len(list(site.glob("*.dist-info"))) - before
            text = log.read_text(encoding="utf-8", errors="replace")
            return report(text, most, unpacked, time.monotonic() - began)

        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(LOOK)
            if terminal:
                print(f"\r\x1b[K  {state()}", end="", flush=True)
            elif time.monotonic() - said > LINE:
                said = time.monotonic()
                print(f"  {state()}", flush=True)
        print(f"{chr(13)}\x1b[K" if terminal else "", f"  {state()}", sep="", flush=True)
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            told = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
            print("\n".join(told), file=sys.stderr)
    return process.returncode


def main(file: str) -> int:
    print(f"installing {file} into {BIN.parent.name} ...", flush=True)
    try:
        if client := uv():
            command = [client, "pip", "install", "--python", sys.executable, "--require-hashes"]
            return subprocess.run([*command, "-r", file], check=False).returncode
        return install_with_pip(file, sys.stdout.isatty())
    except KeyboardInterrupt:
        print("\ninterrupted: run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
