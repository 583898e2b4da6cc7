"""How far a computation is shows as a bar on a terminal and as lines in a log."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading

import pytest

from cnn import progress
from tests.clones import ROOT

PROGRAM = """
import sys, time
from cnn import progress
began = time.monotonic()
progress.FIRST = progress.LATER = 0.5
with progress.shown(1000, lambda: int((time.monotonic() - began) * 500)) as say:
    time.sleep(1.3)
    say("a line")
"""


@pytest.mark.parametrize(
    ("taken", "said"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (6000, "1 h 40 min")],
)
def test_a_duration_is_said_as_people_do(taken, said):
    assert progress.seconds(taken) == said


def test_a_log_gets_whole_lines_with_an_estimate():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )

    *steps, last = done.stdout.splitlines()
    found = [re.fullmatch(r"step (\d+) of 1,000, about (\d) s left", line) for line in steps]
    assert found
    for step in found:  # 500 a second
        assert abs((1000 - int(step[1])) / 500 - int(step[2])) < 1
    assert last == "a line"
    assert done.stderr == ""


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
    os.close(ours)

    text = shown.decode()
    bar, _, after = text.partition("a line\r\n")
    assert re.search(r"\d+%\|.*\| \d+/1000 \[", bar)
    assert "step 5" not in text  # the bar says it
    assert not after.rpartition("\r")[2].strip()  # the last thing on the line is nothing


def test_a_count_that_is_never_asked_costs_no_line(capsys):
    with progress.shown(10, lambda: 0) as say:
        say("done at once")

    assert capsys.readouterr().out == "done at once\n"


def test_an_error_inside_goes_on_and_ends_the_bar():
    before = threading.active_count()

    with pytest.raises(ZeroDivisionError), progress.shown(10, lambda: 0):
        1 / 0  # noqa: B018

    assert threading.active_count() == before
