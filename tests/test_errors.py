"""How a program ends: what the user can fix is one line, a bug keeps its traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn.base.errors import UserError, brief
from cnn.base.program import run


def test_what_the_user_can_fix_is_one_line_and_exit_code_1(capsys):
    def refuse():
        raise UserError("params.yaml: is wrong")

    assert run(refuse) == 1
    assert capsys.readouterr() == ("", "error: params.yaml: is wrong\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a.npz"),
            "a.npz: No space left on device; make room there",
        ),
        (
            OSError(errno.EFBIG, "File too large", "a.npz"),
            "a.npz: File too large; raise the limit on the size of files ('ulimit -f')",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", Path("models")),
            "models: Permission denied; see to it that it may be read and written",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "No usable temporary directory found in ['/tmp']; see to it that it is there",
        ),
        (MemoryError("3 GiB"), "not enough memory ('3 GiB'); free some"),
        (
            type("ResourceExhaustedError", (Exception,), {})("OOM when\nallocating"),
            "not enough memory ('OOM when\\nallocating'); free some",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line_with_what_to_do(capsys, error, line):
    def refuse():
        raise error

    assert run(refuse) == 1
    assert capsys.readouterr() == ("", f"error: {line} and run the same command again\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(unbuffered):
    """/dev/full is a device with no room. What Python could not write it tries again at its end."""
    program = "from cnn.base.program import run; raise SystemExit(run(lambda: print('much')))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output: No space left on device; make room there and run the same "
        "command again\n"
    )


@pytest.mark.parametrize("bug", [ZeroDivisionError, KeyError, ValueError, OSError, SystemExit])
def test_a_bug_keeps_its_traceback(bug):
    def broken():
        raise bug

    with pytest.raises(bug) as caught:
        run(broken)
    assert caught.traceback[-1].name == "broken"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_main_returns(returned, code):
    assert run(lambda: returned) == code


@pytest.mark.parametrize("value", ["text", None, [1, 2], {"a": 1}, "x" * 58])
def test_what_is_short_is_shown_whole(value):
    assert brief(value) == repr(value)


@pytest.mark.parametrize("value", ["x" * 59, list(range(100_000)), "a\n" * 1000])
def test_what_is_long_is_cut_in_its_middle_and_stays_on_one_line(value):
    assert brief(value) == f"{repr(value)[:30]} ... {repr(value)[-30:]}"
    assert "\n" not in brief(value)


def test_how_much_is_shown_can_be_chosen():
    assert brief("abcdefgh", most=4) == "'a ... h'"
