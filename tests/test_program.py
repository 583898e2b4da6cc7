"""A program ends soon after a signal, and with the dvc that runs it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnn.base import program

ROOT = Path(__file__).parent.parent
SIGNALS = pytest.mark.parametrize(
    ("sent", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
# What a stage does: it says that it has started, and then is busy for longer than any test.
BUSY = """
import sys, time
from cnn.base import files, program
program.LOOK = 0.1
def main():
    with files.atomic_write(sys.argv[1]) as temporary:
        temporary.write_text("half of it")
        print("ready", flush=True)
        time.sleep(60)
raise SystemExit(program.run(main))
"""


def started(*command: object, **environment: str) -> subprocess.Popen:
    """Start a program in a session of its own; return it when it has said that it is ready."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@SIGNALS
def test_a_signal_ends_a_program_with_one_line_and_no_temporary(tmp_path, sent, code, word):
    with started(sys.executable, "-c", BUSY, tmp_path / "file") as process:
        process.send_signal(getattr(signal, sent))
        output, errors = process.communicate()

    assert (output, errors) == ("", f"{word}: what was not finished is not written\n")
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []


def test_after_a_program_the_handler_is_the_one_before_and_no_thread_is_left():
    before = threading.active_count()

    with program.terminable():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

    assert threading.active_count() == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_handler_of_sigterm_stays():
    def handler(*_):
        pass

    signal.signal(signal.SIGTERM, handler)
    try:
        with program.terminable():
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


# Stands for dvc: it starts a command as dvc does, with the user's shell or without one between.
DVC = """
import os, subprocess, sys
os.environ["DVC_STAGE"] = "train"
shell = ["/bin/sh", "-c", '"$@"; exit $?', "sh"] if sys.argv[1] == "between" else []
subprocess.run([*shell, *sys.argv[2:]])
"""


@pytest.mark.parametrize("shell", ["between", "none"])
def test_a_stage_ends_when_dvc_alone_was_killed(tmp_path, shell):
    # Ready when it has looked twice and found dvc there.
    busy = BUSY.replace("print(", "time.sleep(0.25); print(")
    command = [sys.executable, "-c", DVC, shell, sys.executable, "-c", busy, tmp_path / "file"]
    with started(*command, SHELL="/bin/sh") as dvc:
        dvc.kill()
        # Ends when the last of the processes that hold the pipe has ended: the stage.
        _, errors = dvc.communicate(timeout=30)

    assert errors == "terminated: what was not finished is not written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_stage_whose_dvc_was_gone_before_it_looked_ends(tmp_path):
    """Its parent is then one that has nothing to do with it."""
    with started(sys.executable, "-c", BUSY, tmp_path / "file", DVC_STAGE="train") as stage:
        _, errors = stage.communicate(timeout=30)

    assert stage.returncode == 143
    assert errors == "terminated: what was not finished is not written\n"


def test_a_program_that_no_dvc_runs_outlives_its_parent(tmp_path):
    """As after `nohup python -m stages.train ... &` in a terminal that is closed."""
    start = "import subprocess, sys; subprocess.Popen(sys.argv[1:]); sys.stdin.read()"
    finish = BUSY.replace("time.sleep(60)", "time.sleep(2 * program.LOOK)")
    command = [sys.executable, "-c", start, sys.executable, "-c", finish, tmp_path / "file"]
    with started(*command) as parent:
        parent.kill()
        _, errors = parent.communicate(timeout=30)

    assert errors == ""
    assert (tmp_path / "file").read_text() == "half of it"


def test_what_c_code_prints_is_discarded_for_as_long_as_is_said(capfd):
    with program.silence():
        os.write(2, b"a note of a library's")
    os.write(2, b"after")

    assert capfd.readouterr().err == "after"


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert program.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert program.cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert program.cores() == 1


def test_a_signal_in_the_middle_of_a_print_still_ends_with_its_line():
    """Python does not enter a buffered writer twice; a handler may be called within one."""
    code = """if True:
        import io, os, signal, sys
        from cnn.base.program import ended_at_once

        class Signalling(io.RawIOBase):
            def writable(self):
                return True
            def write(self, data):
                os.kill(os.getpid(), signal.SIGINT)
                return len(data)

        def stream():
            return io.TextIOWrapper(io.BufferedWriter(Signalling()), write_through=True)

        sys.stdout, sys.stderr = stream(), stream()
        with ended_at_once():
            print("x", file=sys.STREAM, flush=True)
    """
    for name in ("stdout", "stderr"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("STREAM", name)], capture_output=True, text=True
        )
        assert done.returncode == 130
        if name == "stderr":
            assert done.stderr == "interrupted: what was not finished is not written\n"
