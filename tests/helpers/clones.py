"""A clone of this project as Git has it, with the real `dvc`, a home of its own and small data."""

import hashlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from multiprocessing import reduction
from pathlib import Path

import numpy as np
import yaml

from cnn.published.datasets import ARRAYS, PUBLISHED, to_idx

ROOT = Path(__file__).parents[2]

# Each `dvc` is a process of its own, forked from one that has imported it: half a second less.
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    ["tests.helpers.clones", "dvc.cli.parser", "dvc.repo.reproduce", "dvc.dvcfile"]
    + ["dvc_data.index", "dvc.stage.run", "dvc.database", "dvc.data_cloud"]
    + ["dvc.repo.experiments.executor.local"]
)
DVC = ("dvc",), (sys.executable, "-m", "dvc")
# Variables of this process, or of who runs the tests, that a user has not set.
FOREIGN = ("DVC_", "GIT_", "XDG_", "PYTEST_", "PYTHONDONT", "CNN_", "TF_", "KERAS_", "CUDA_VISIBLE")


def environment(clone: Path) -> dict[str, str]:
    """Return the environment of a user whose home is next to the clone, with the data."""
    home = clone.parent / "home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MNIST_DIR": str(home / "mnist"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "DVC_NO_ANALYTICS": "1",
    }


def attempt(clone: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in the clone, whatever becomes of it."""
    for start in DVC:
        if command[: len(start)] == start:
            return _attempt_dvc(clone, command, command[len(start) :])
    return subprocess.run(
        command, cwd=clone, env=environment(clone), capture_output=True, text=True
    )


def _attempt_dvc(clone: Path, command: tuple, words: tuple) -> subprocess.CompletedProcess:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        descriptors = [reduction.DupFd(file.fileno()) for file in (out, err)]
        process = WARM.Process(target=_dvc, args=(clone, words, environment(clone), *descriptors))
        process.start()
        process.join()
        printed = [(file.seek(0), file.read())[1] for file in (out, err)]
    return subprocess.CompletedProcess(command, process.exitcode, *printed)


def _dvc(clone: Path, words: tuple, variables: dict[str, str], out: object, err: object) -> None:
    for number, descriptor in ((1, out), (2, err)):
        os.dup2(descriptor.detach(), number)
    os.chdir(clone)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["dvc", *words]
    from dvc.cli import main

    sys.exit(main(words))


def run(clone: Path, *command: str) -> str:
    """Run a command that must succeed; return what it printed."""
    done = attempt(clone, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(clone: Path, *arguments: str) -> str:
    return run(clone, sys.executable, "-m", "dvc", *arguments)


def git(clone: Path, *arguments: str) -> str:
    return run(clone, "git", *arguments)


def commit(clone: Path, message: str) -> None:
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", f"--message={message}")


def repro(clone: Path, *options: str) -> list[str]:
    """Run `dvc repro`; return the stages that ran."""
    return re.findall(r"^Running stage '(\w+)'", dvc(clone, "repro", *options), re.MULTILINE)


def set_params(clone: Path, params: dict) -> None:
    (clone / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def hashes(clone: Path) -> dict[str, str]:
    """Return {path: MD5} of every output in dvc.lock."""
    lock = yaml.safe_load((clone / "dvc.lock").read_text(encoding="utf-8"))
    return {
        output["path"]: output["md5"]
        for stage in lock["stages"].values()
        for output in stage["outs"]
    }


def make(clone: Path, params: dict, raw: dict[str, np.ndarray]) -> Path:
    """Make a clone with other parameters, in which `raw` is the published MNIST.

    Only the hashes of the published data are changed in the code of the clone.
    """
    mnist = clone.parent / "home" / "mnist"
    mnist.mkdir(parents=True, exist_ok=True)
    np.savez(mnist / "mnist.npz", **raw)
    hashed = {
        published: hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest()
        for name, published in zip(ARRAYS, PUBLISHED["mnist"].sha256, strict=True)
    }
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if name.startswith(("tests/", "reports/")) or not (ROOT / name).is_file():
            continue
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    (clone / "dvc.lock").unlink()
    for path in (clone / "cnn").rglob("*.py"):
        if any(published in (text := path.read_text(encoding="utf-8")) for published in hashed):
            for published, here in hashed.items():
                text = text.replace(published, here)
            path.write_text(text, encoding="utf-8")
    set_params(clone, params)
    git(clone, "init", "--quiet", "--initial-branch=main")
    git(clone, "config", "user.name", "test")
    git(clone, "config", "user.email", "test@localhost")
    commit(clone, "first")
    return clone
