"""The comparison of machines, with a make-believe emulator, and what is run on each of them."""

import multiprocessing.process
import shutil
import sys

import pytest

from benchmarks import emulated, machines
from cnn.errors import run
from cnn.params import read_yaml
from tests.clones import ROOT
from tools import packages

EMULATOR = """#!/bin/sh
[ "$2" = help ] && { echo 'x86 Haswell'; echo 'x86 Other'; echo 'x86 Broken'; exit 1; }
CPU=$2; export CPU; shift 2; exec "$@"
"""
# Called as: python -u -m benchmarks.emulated FOLDER --steps N --images N
PYTHON = """#!/bin/sh
[ "$CPU" = Broken ] && { echo 'a warning' >&2; echo 'no kernel for this CPU' >&2; exit 3; }
mkdir "$4/models"
echo "$6 steps on ${CPU:-this machine}" | sed 's/Haswell/this machine/' > "$4/models/cnn.keras"
echo "$8 images" > "$4/metrics.json"
[ "$CPU" = Other ] && touch "$4/more.csv"
exit 0
"""


@pytest.fixture
def emulator(tmp_path, monkeypatch):
    """An emulator that knows three CPUs: one computes as this machine, one otherwise, one fails."""
    arm = EMULATOR.replace("x86 Haswell", "cortex-a72").replace("Other", "x").replace("Broken", "y")
    scripts = {machines.QEMU: EMULATOR, machines.QEMU_ARM: arm, "python": PYTHON}
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CPU", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def lines(capfd) -> list[str]:
    """Return what was printed, without the seconds that it took."""
    return [line.rpartition(" (")[0] for line in capfd.readouterr().out.splitlines()]


def test_the_same_bytes_are_a_success(emulator, capfd):
    assert machines.main(["--cpus", "Haswell"]) == 0
    assert lines(capfd) == ["Haswell              all 2 files have the same bytes"]


def test_each_other_byte_and_each_file_too_many_is_named(emulator, capfd):
    assert machines.main(["--cpus", "Other", "Haswell", "--steps", "3", "--images", "50"]) == 1
    assert lines(capfd) == [
        "Other                2 of 2 files differ: models/cnn.keras, more.csv",
        "Haswell              all 2 files have the same bytes",
    ]


def test_a_file_that_is_missing_differs():
    assert machines.differing({"a": "1", "b": "2"}, {"a": "1"}) == ["b"]


def test_a_cpu_on_which_the_pipeline_fails_is_no_end_of_the_others(emulator, capfd):
    assert machines.main(["--cpus", "Broken", "Haswell"]) == 1
    assert lines(capfd) == [
        "Broken               exit code 3: no kernel for this CPU",
        "Haswell              all 2 files have the same bytes",
    ]


def test_a_failure_on_this_machine_is_one_line(emulator, monkeypatch, refusal):
    monkeypatch.setenv("CPU", "Broken")
    message = refusal(machines.main, ["--cpus", "Haswell"])
    assert message == "on this machine: exit code 3: no kernel for this CPU"


@pytest.mark.parametrize("cpu", ["Has", "cortex-a72"])  # the latter wants --arm
def test_a_cpu_that_nobody_knows_is_refused_before_anything_is_run(emulator, refusal, cpu):
    message = refusal(machines.main, ["--cpus", "Haswell", cpu])
    assert message.startswith(f"{cpu}: is no CPU of qemu-x86_64 or, with --arm, of qemu-aarch64")


def test_a_missing_emulator_is_one_line(monkeypatch, capfd):
    monkeypatch.setattr(machines.shutil, "which", lambda _: None)
    assert run(lambda: machines.main(["--cpus", "Haswell"])) == 1
    assert capfd.readouterr().err.endswith(
        "or they are missing; install qemu-user (Debian's package)\n"
    )


def test_a_folder_without_a_userland_is_one_line(emulator, tmp_path, refusal):
    message = refusal(machines.main, ["--cpus", "cortex-a72", "--arm", str(tmp_path)])
    assert message == f"{tmp_path}: holds no userland; make it with --make-arm"


def test_a_userland_is_run_with_its_own_python_and_packages(emulator, tmp_path):
    for folder in ("root/usr/bin", "site"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "root/usr/bin/python3.11").touch()

    command, variables = machines.runner("cortex-a72", tmp_path)

    assert command[1:4] == ["-cpu", "cortex-a72", "-L"]
    assert command[4:] == [f"{tmp_path}/root", f"{tmp_path}/root/usr/bin/python3.11"]
    assert variables["PYTHONPATH"] == f"{ROOT}:{tmp_path}/site"
    assert variables["PATH"] == "/nowhere"  # no program of this machine


def test_the_packages_of_the_userland_are_locked():
    locked = packages.locked((ROOT / "requirements.txt").read_text())
    assert set(machines.ARM_PACKAGES) <= set(locked)


def test_without_a_model_the_one_line_says_what_makes_it(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    message = refusal(emulated.main, [str(tmp_path)])
    assert message == "data/raw/published.npz: is missing; run 'make repro'"


@pytest.fixture
def here(monkeypatch):
    """This process, in which no other may be started until the test is over."""
    process = multiprocessing.process.BaseProcess
    monkeypatch.setattr(process, "start", process.start)
    emulated.stay_in_this_process()


def test_a_process_that_would_leave_the_emulated_cpu_is_an_error(here):
    with pytest.raises(RuntimeError, match="would not run on the emulated CPU"):
        multiprocessing.get_context("spawn").Process(target=print).start()


def test_every_output_of_the_pipeline_is_written(
    here, raw_npz, trained, tiny_yaml, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # and back
    monkeypatch.setattr(emulated, "RAW", raw_npz)
    monkeypatch.setattr(emulated, "MODEL", trained / "cnn.keras")
    monkeypatch.setattr(emulated, "HISTORY", trained / "training.csv")
    shutil.copy(tiny_yaml, tmp_path / "params.yaml")

    emulated.run_stages(tmp_path, 2, 50)

    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    del stages["fetch"]
    for stage in stages.values():
        for group in ("outs", "metrics", "plots"):
            for output in stage.get(group, []):
                path = output if isinstance(output, str) else next(iter(output))
                assert (tmp_path / path).exists()
