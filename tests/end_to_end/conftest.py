"""A clone in which the pipeline has run on real digits and a tiny network: once per session."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.clones import commit, make, repro
from tests.helpers.imports import STAGES


@pytest.fixture(scope="session")
def finished(tmp_path_factory, raw, tiny) -> Path:
    """The clone, every result committed; its parent has the home of who runs it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all workers share
    clone, done = base / "finished" / "clone", base / "finished" / "done"
    with open(base / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(clone, tiny, raw)
            assert repro(clone) == list(STAGES)
            commit(clone, "results")
            done.touch()
    return clone


@pytest.fixture(scope="module")
def clone(finished, tmp_path_factory) -> Path:
    """A copy for the tests of one module, each of which leaves it as it was."""
    folder = tmp_path_factory.mktemp("copy") / "user"
    shutil.copytree(finished.parent, folder, symlinks=True)
    return folder / "clone"
