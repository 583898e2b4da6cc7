"""The blocks of commands and code in the documents do what they show."""

import subprocess

import pytest

from tests.helpers.clones import environment, run
from tests.helpers.documents import blocks, check_output, parts


@pytest.mark.parametrize("block", [block for block in blocks() if block.shown is None], ids=str)
def test_a_block_of_the_documents_prints_what_it_shows(block, clone):
    """In the order of the documents, whatever the numbers; the clone is as after `make repro`."""
    if block.language == "python":
        run(clone, "python", "-c", block.text)
        return
    for command, expected in parts(block.text):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env=environment(clone),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        check_output(expected, done.stdout, command)
