"""Find a browser for the tests of the charts and of the drawing page, or install one.

    python -m tools.browser [--install]

Prints the path of a Chromium, Chrome or Edge that starts: one on PATH, else Playwright's own. With
`--install`, when there is none, it tries in this order Playwright's download and the system's
package (as root, or with sudo where that asks for no password), and says what it does. Exit code 1,
with a line that says what to install, when no way leads to one.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.program import run

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "microsoft-edge-stable",
    "msedge",
)
APPLICATIONS = (  # macOS does not put them on PATH
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
# Package manager: the commands that install its Chromium, and the library that Playwright's driver
# lacks on a system with little more than Python.
PACKAGES = {
    "apt-get": (
        "apt-get update -q",
        "apt-get install -y -q --no-install-recommends chromium libatomic1",
    ),
    "dnf": ("dnf install -y chromium libatomic",),
    "zypper": ("zypper --non-interactive install chromium libatomic1",),
    "pacman": ("pacman -Sy --noconfirm chromium gcc-libs",),
    "apk": ("apk add chromium libatomic",),
}
DOWNLOAD = 600  # seconds that Playwright's download may take


def starts(path: str) -> bool:
    """Tell whether the program at `path` is there and has the libraries that it needs."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def candidates() -> Iterator[str]:
    """Yield where a browser may be, the user's own first."""
    for name in NAMES:
        if path := shutil.which(name):
            yield path
    yield from APPLICATIONS
    if path := playwright_path():
        yield path


def driver_problem() -> str:
    """Return why Playwright's driver, a program that drives the browser, does not start, or ""."""
    command = [sys.executable, "-m", "playwright", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines()
    reason = next((line for line in lines if "error" in line), f"exit code {done.returncode}")
    return reason.rpartition("/driver/")[2]


def playwright_path() -> str | None:
    """Return where Playwright keeps its own Chromium, there or not.

    None without Playwright, or where its driver does not start.
    """
    if driver_problem():
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def find() -> str | None:
    """Return the path of a browser that starts, or None."""
    return next((path for path in candidates() if starts(path)), None)


def ways() -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the ways to install a browser: what to say, and the commands to run in turn."""
    download = [sys.executable, "-m", "playwright", "install", "chromium"]
    yield "Playwright's own download", [download]
    if os.geteuid() == 0:
        prefix: list[str] | None = []
    elif shutil.which("sudo"):
        prefix = ["sudo", "--non-interactive"]
    else:
        return
    for manager, commands in PACKAGES.items():
        if shutil.which(manager):
            yield (
                f"the system's package, by {manager}",
                [[*prefix, *command.split()] for command in commands],
            )


def install() -> str:
    """Install a browser by the first way after which it can be driven; return its path.

    Raises
    ------
    UserError
        No way gives one. The message says what to install.
    """
    for name, commands in ways():
        print(f"no browser to drive; trying {name} ...", file=sys.stderr, flush=True)
        for command in commands:
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=DOWNLOAD, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                print(f"  failed: {' '.join(str(error).split())}", file=sys.stderr)
                break
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
                said = next((line for line in lines if "rror" in line), lines[-1])
                print(f"  failed: {said.strip()}", file=sys.stderr, flush=True)
                break
        if (path := find()) and not driver_problem():
            return path
    if problem := driver_problem():
        raise UserError(
            f"Playwright, which drives the browser in the tests, does not start: {problem}; "
            "install what it lacks (Debian and Ubuntu: apt-get install libatomic1)"
        )
    raise UserError(
        "the tests need a browser and none could be installed; install Chromium, Chrome or Edge "
        "(Debian and Ubuntu: apt-get install chromium) so that it is on PATH"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="install one when there is none")
    arguments = parser.parse_args(argv)
    path = find()
    if arguments.install and (path is None or driver_problem()):
        path = install()
    if path is None:
        raise UserError("no browser is here; 'make test' installs one")
    print(Path(path))


if __name__ == "__main__":
    raise SystemExit(run(main))
