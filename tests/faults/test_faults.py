"""Whatever is broken on purpose, nothing is lost and one line says why; the count is printed."""

import subprocess
import sys

from tests.faults.common import ROOT


def test_all_faults_are_survived():
    """In a process of its own, which has no threads: so it can be copied."""
    command = [sys.executable, "-m", "tests.faults", "--size=small"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
