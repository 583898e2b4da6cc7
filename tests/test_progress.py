"""How far a computation is shows as a bar on a terminal and as lines in a log."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from cnn.training import progress
from tests.helpers.clones import ROOT

PROGRAM = """
from cnn.training.progress import Progress
with Progress(1000) as bar:
    bar.update(250)
    bar.line("a line")
    bar.update(500)
"""


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (6000, "1 h 40 min")],
)
def test_a_duration_reads_as_people_say_it(seconds, text):
    assert progress.duration(seconds) == text


def test_a_log_gets_a_line_soon_and_then_one_a_minute_with_an_estimate(clock, capsys):
    lines = {}
    with progress.Progress(10_000) as bar:
        for second in range(1, 200):
            clock[0] += 1
            bar.update(10 * second)
            if out := capsys.readouterr().out:
                lines[second] = out

    # 10 steps a second; of the first ones nothing is known until the second look.
    assert lines == {
        second: f"step {10 * second:,} of 10,000, about {left} left\n"
        for second, left in ((5, "17 min"), (66, "16 min"), (127, "15 min"), (188, "14 min"))
    }
    assert capsys.readouterr() == ("", "")


def test_another_line_puts_the_next_one_off(clock, capsys):
    with progress.Progress(1000) as bar:
        bar.update(0)
        clock[0] += 50
        bar.line("epoch 1")
        clock[0] += 59
        bar.update(500)
        assert capsys.readouterr().out == "epoch 1\n"
        clock[0] += 2
        bar.update(510)

    assert capsys.readouterr().out == "step 510 of 1,000, about 2 min left\n"


def test_of_a_single_step_that_takes_long_nothing_is_estimated(clock, capsys):
    with progress.Progress(10) as bar:
        for _ in range(10):
            clock[0] += 100
            bar.update(3)

    assert capsys.readouterr().out == ""


def test_one_that_goes_on_counts_the_time_of_its_own_steps(clock, capsys):
    with progress.Progress(1000) as bar:
        bar.update(900)  # which were there before
        clock[0] += 100
        bar.update(950)

    assert capsys.readouterr().out == "step 950 of 1,000, about 2 min left\n"


def test_a_silent_one_prints_nothing(clock, capsys):
    with progress.Progress(10, silent=True) as bar:
        for count in range(10):
            clock[0] += 100
            bar.update(count)
        bar.line("a line")

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("silent", ["", ", silent=True"], ids=["shown", "silent"])
def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(silent):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    program = PROGRAM.replace("1000", f"1000{silent}")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
    os.close(ours)

    text = shown.decode()
    if silent:
        assert text == ""
        return
    _, line, after = text.partition("a line\r\n")
    assert line
    assert re.search(r"25%\|.*\| 250/1000 \[", after)  # it is back below the line
    assert "step 2" not in text  # the bar says it
    assert not after.rpartition("\r")[2].strip()  # the last thing on the line is nothing
