"""Install locked packages into .venv: by uv, or by pip where uv cannot reach them.

    python3 tools/environment.py requirements.txt .venv/run

Makes .venv first where there is none, where it was left half-made, or where it is another Python's.
`.venv/run` is there only while the environment is whole. uv is the user's own, or one that pip
brings into .venv; both check the same hashes and get pip's settings, which uv does not read.

Runs before any package is there, so it imports none, and down to Python 3.6, to refuse that in one
line.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = Path(".venv")
BIN = ENVIRONMENT / "bin"
WHOLE, PARTIAL = ENVIRONMENT / "run", ENVIRONMENT / "partial"
PYTHON = str(BIN / "python")
PIP = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
LOCKED_UV = "requirements-uv.txt"
CACHE = ENVIRONMENT / "cache"  # for who wants none kept; beside what is linked to it
# In a path: PATH cannot hold the first, nor make the second, and in the others venv's `activate`
# sets a wrong PATH before Python 3.11.11, 3.12.8 and 3.13.1.
UNUSABLE = ':\n$`"'

# pip's options, and the variables by which uv takes them: one value, or several joined by a string.
VALUES = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
    "timeout": ("UV_HTTP_TIMEOUT",),
}
LISTS = {
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "constraint": ("UV_CONSTRAINT", " "),
}
TRUE = ("1", "true", "yes", "on", "y", "t")  # as pip reads them

# DVC keeps pickles in a folder that every user of the machine may write into, unless told of
# another. The Makefile exports one; this does it where `dvc` is called by hand.
ACTIVATE = {
    "activate": """
DVC_SITE_CACHE_DIR="${DVC_SITE_CACHE_DIR:-${VIRTUAL_ENV%/*}/.dvc/tmp/site}"
export DVC_SITE_CACHE_DIR
""",
    "activate.csh": """
if (! $?DVC_SITE_CACHE_DIR) setenv DVC_SITE_CACHE_DIR "$VIRTUAL_ENV:h/.dvc/tmp/site"
""",
    "activate.fish": """
set -q DVC_SITE_CACHE_DIR; or set -gx DVC_SITE_CACHE_DIR (dirname "$VIRTUAL_ENV")/.dvc/tmp/site
""",
}


def refusal(version: tuple, folder: str, pyproject: str) -> str:
    """Return why this Python or this folder cannot be used; "" where both can."""
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', pyproject, re.MULTILINE)
    first, last = int(found.group(1)), int(found.group(2)) - 1
    if not (3, first) <= version[:2] <= (3, last):
        number = ".".join(map(str, version[:3]))
        age = "old" if version[:2] < (3, first) else "new"
        return (
            f"Python {number} is too {age}, it must be 3.{first} to 3.{last}: "
            f"install one and run 'make PYTHON=python3.{last}'"
        )
    for character in UNUSABLE:
        if character in folder:
            return f"no environment works in a folder with {character!r} in its path: {folder!r}"
    return ""


def is_whole(python: str) -> bool:
    """Tell whether .venv is complete and of this Python."""
    return WHOLE.is_file() and os.path.realpath(PYTHON) == python


def make(python: str) -> None:
    """Make .venv again from nothing."""
    if WHOLE.exists():
        WHOLE.unlink()
    subprocess.run([python, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    for name, text in ACTIVATE.items():
        with open(BIN / name, "a", encoding="utf-8") as file:
            file.write(text)
    # So that an editor's Run button, which starts a file by its path, finds the project's packages.
    for site in ENVIRONMENT.glob("lib/python3.*/site-packages"):
        (site / "project.pth").write_text("../../../..\n", encoding="utf-8")
    PARTIAL.touch()


def pip_settings() -> dict:
    """Return {option: value} as pip merges its files and the variables PIP_*."""
    listed = subprocess.run([*PIP, "config", "list"], stdout=subprocess.PIPE, check=True).stdout
    settings = {}
    for section in ("global.", "install.", ":env:."):  # the later ones win
        for line in listed.decode(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section):
                settings[key[len(section) :]] = ast.literal_eval(value)
    return settings


def for_uv(settings: dict, variables: dict) -> dict:
    """Return the variables by which uv does what pip is set to do; the user's own for uv win."""
    given = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: of all indexes; hashes decide
    for option, names in VALUES.items():
        if settings.get(option):
            given.update((name, os.path.expanduser(settings[option])) for name in names)
    for option, (name, between) in LISTS.items():
        if settings.get(option):
            given[name] = between.join(map(os.path.expanduser, settings[option].split()))
    if settings.get("no-cache-dir", "").lower() in TRUE:
        given["UV_CACHE_DIR"] = str(CACHE)
    if "SSL_CERT_FILE" not in given:  # pip takes these too
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if variables.get(name):
                given.setdefault("SSL_CERT_FILE", variables[name])
    mine = {name: value for name, value in variables.items() if name.startswith("UV_")}
    return {**variables, **given, **mine}


def own_uv() -> str:
    """Return the uv on the user's PATH, .venv's left out; "" where there is none."""
    folders = [folder for folder in os.get_exec_path() if Path(folder).resolve() != BIN.resolve()]
    return shutil.which("uv", path=os.pathsep.join(folders)) or ""


def problem(command: list, variables: dict) -> str:
    """Run a command; return "" if it succeeds, else what it says, in one line."""
    try:
        done = subprocess.run(
            command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
    except OSError as error:  # such as a uv for another kind of machine
        return str(error)
    if done.returncode == 0:
        return ""
    # pip warns before it says what failed.
    said = re.split(r"(?im)^error: ", done.stderr.decode(errors="replace"))[-1]
    return " ".join(said.split()) or f"exit code {done.returncode}"


def unreachable(uv: str, arguments: list, variables: dict) -> str:
    """Return why this uv does not reach all packages within pip's constraints, "" if it does."""
    # Constraints need not be pinned here, since hashes are not required yet.
    trial = [uv, "pip", "install", "--dry-run", "--quiet", "--no-deps", *arguments]
    why = problem(trial, variables)
    if "certificate" in why:  # those of the system, as pip has them
        variables["UV_SYSTEM_CERTS"] = "1"
        why = problem(trial, variables)
    return why


def install(file: str) -> int:
    """Install with the first uv that reaches all packages, else with pip; return its exit code.

    Tried before it installs, so that pip does not find what uv left half-way.
    """
    settings = pip_settings()
    variables = for_uv(settings, dict(os.environ))
    arguments = ["--python", PYTHON, "-r", file]
    if settings.get("no-index", "").lower() in TRUE:
        arguments.append("--no-index")
    uv = own_uv()
    why = unreachable(uv, arguments, variables) if uv else "none"
    if why:
        uv = str(BIN / "uv")
        why = problem([*PIP, "install", "--require-hashes", "-r", LOCKED_UV], None)
        why = why or unreachable(uv, arguments, variables)
    if why:
        print(f"uv cannot install them, so pip does, which takes longer ({why[:300]})", flush=True)
        return subprocess.run([*PIP, "install", "--require-hashes", "-r", file]).returncode
    variables.pop("UV_CONSTRAINT", None)  # only pinned ones may go with --require-hashes
    command = [uv, "pip", "install", "--require-hashes", "--compile-bytecode", *arguments]
    return subprocess.run(command, env=variables).returncode


def main(file: str, stamp: Path) -> int:
    """Bring .venv to what `file` locks; touch `stamp` when it is."""
    pyproject = Path("pyproject.toml").read_text(encoding="utf-8")
    refused = refusal(tuple(sys.version_info), os.getcwd(), pyproject)
    if refused:
        print(f"error: {refused}", file=sys.stderr)
        return 1
    # The file itself, not a link that an upgrade turns to another Python.
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    try:
        if is_whole(python):
            newest = max(os.stat(file).st_mtime, WHOLE.stat().st_mtime)
            if stamp.is_file() and stamp.stat().st_mtime >= newest:
                return 0
            WHOLE.rename(PARTIAL)
        else:
            make(python)
        print(f"installing {file} into {ENVIRONMENT} ...", flush=True)
        code = install(file)
        if code == 0:
            shutil.rmtree(CACHE, ignore_errors=True)
            PARTIAL.rename(WHOLE)
            stamp.touch()
        return code
    except subprocess.CalledProcessError as error:  # it has said why, but for this
        free = shutil.disk_usage(".").free
        if free < 50e6:
            print(f"error: the disk is full, {free / 1e6:.0f} MB are free", file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        print("\ninterrupted: the same command starts again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
