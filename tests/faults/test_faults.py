"""Whatever is broken on purpose, nothing is lost and one line says why; the figure is printed."""

import subprocess
import sys

import pytest

from tests.faults.__main__ import KINDS
from tests.faults.common import ROOT


@pytest.mark.parametrize("kind", KINDS)
def test_all_faults_of_a_kind_are_survived(kind):
    """In a process of its own, which has no threads: so it can be copied."""
    command = [sys.executable, "-m", "tests.faults", "--size=small", f"--only={kind}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
