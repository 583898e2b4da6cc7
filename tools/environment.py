"""Install locked packages into .venv, and say how far it is.

    .venv/bin/python tools/environment.py requirements.txt

pip says nothing with --quiet, and hundreds of lines without. With uv on PATH, that installs, and
shows its own progress; it takes the same files, by the same hashes. Runs before any package is
there, so it imports none.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
LOCKED = re.compile(r"^[A-Za-z0-9_.-]+==", re.MULTILINE)
FETCHED = re.compile(r"^ *(?:Downloading|Using cached) (\S+?)-\d\S*(?<!\.metadata)( \(.*\))?$")
EVERY = 20  # packages between two lines in a log


def uv() -> str | None:
    """Return the user's own uv; the one in .venv does not know how the user reaches packages."""
    found = shutil.which("uv")
    return None if found is None or Path(found).parent == BIN else found


def install_with_pip(file: str, terminal: bool) -> int:
    """Install with pip, saying how far it is; return its exit code."""
    command = [sys.executable, "-u", "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar=off", "--require-hashes", "-r", file]
    # An upper bound: a package may be for other systems.
    most = len(LOCKED.findall(Path(file).read_text(encoding="utf-8")))

    def say(text: str) -> None:
        print(f"\r\x1b[K  {text}" if terminal else f"  {text}\n", end="", flush=True)

    lines, fetched = [], 0
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipe) as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            if package := FETCHED.match(lines[-1]):
                fetched += 1
                if terminal or fetched % EVERY == 0:
                    say(f"{fetched} of at most {most} packages: {package[1]}{package[2] or ''}")
            elif line.startswith("Installing collected packages"):
                say("unpacking them, which takes about a minute")
    if terminal:
        print()
    if process.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        print("\n".join(errors), file=sys.stderr)
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
