"""Processes beside this one end with the block, and with this process, and say nothing."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import psutil
import pytest

from cnn.data.beside import beside
from tests.helpers.clones import ROOT


def double(connection, more: int) -> None:
    while True:
        connection.send(2 * connection.recv() + more)


def test_each_answers_until_the_block_ends():
    with beside(double, [(0,), (1,)]) as connections:
        for connection in connections:
            connection.send(4)
        assert [connection.recv() for connection in connections] == [8, 9]
        assert len(active_children()) == 2
    assert not active_children()


def test_one_that_was_killed_answers_by_an_end():
    with beside(double, [(0,)]) as (connection,):
        active_children()[0].kill()
        with pytest.raises((EOFError, OSError)):
            connection.send(1)
            connection.recv()


ASKING = """
import time
from cnn.data.beside import beside
from tests.test_beside import double

if __name__ == "__main__":
    try:
        with beside(double, [(0,), (0,)]) as connections:
            for connection in connections:
                connection.send(1)
                connection.recv()
            print("answered", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_the_process_that_asks_and_say_nothing(tmp_path, end):
    (tmp_path / "asking.py").write_text(ASKING)
    asking = subprocess.Popen(
        [sys.executable, tmp_path / "asking.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert asking.stdout.readline() == "answered\n"
    others = psutil.Process(asking.pid).children()
    assert len(others) >= 2

    if end == signal.SIGKILL:
        asking.kill()
    else:
        os.killpg(asking.pid, end)  # as a terminal does, to all of them

    _, said = asking.communicate(timeout=30)
    assert said == ""
    deadline = time.monotonic() + 30
    while any(process.is_running() for process in others):
        assert time.monotonic() < deadline
        time.sleep(0.05)
