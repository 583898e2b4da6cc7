"""The comparison of machines, with a make-believe emulator, and what is run on each of them."""

import multiprocessing.process
import shutil
import sys

import pytest

from benchmarks import emulated, machines
from cnn.base.params import read_yaml
from tests.helpers.clones import ROOT

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
    for name, script in {
        machines.QEMU: EMULATOR,
        machines.QEMU_ARM: "#!/bin/sh\n",
        "python": PYTHON,
    }.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CPU", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def test_each_other_byte_each_file_too_many_and_each_failure_is_named(emulator, capfd):
    assert machines.main(["--cpus", "Haswell"]) == 0
    assert machines.main(["--cpus", "Other", "Broken", "Haswell", "--steps", "3"]) == 1

    same = "Haswell              all 2 files have the same bytes"
    printed = [line.rpartition(" (")[0] for line in capfd.readouterr().out.splitlines()]
    assert printed == [
        same,
        "Other                2 of 2 files differ: models/cnn.keras, more.csv",
        "Broken               exit code 3: no kernel for this CPU",
        same,
    ]
    assert machines.verdict({"a": "1", "b": "2"}, {"a": "1"}) == (False, "1 of 2 files differ: b")


def test_what_cannot_be_run_is_one_line_before_anything_is(
    emulator, tmp_path, refusal, monkeypatch
):
    message = refusal(machines.main, ["--cpus", "Haswell", "Has"])
    assert message.startswith("Has: is no CPU of qemu-x86_64 or, with --arm, of qemu-aarch64")
    assert message.endswith("install qemu-user (Debian's package)")
    monkeypatch.setenv("CPU", "Broken")
    message = refusal(machines.main, ["--cpus", "Haswell"])
    assert message == "on this machine: exit code 3: no kernel for this CPU"
    monkeypatch.chdir(tmp_path)
    message = refusal(emulated.main, [str(tmp_path)])
    assert message == "data/raw/published.npz: is missing; run 'make repro'"


def test_every_output_of_the_pipeline_is_written_in_this_very_process(
    raw_npz, trained, tiny_yaml, tmp_path, monkeypatch
):
    process = multiprocessing.process.BaseProcess
    monkeypatch.setattr(process, "start", process.start)  # put back when the test is over
    monkeypatch.chdir(tmp_path)
    for name, path in {
        "RAW": raw_npz,
        "MODEL": trained / "cnn.keras",
        "HISTORY": trained / "training.csv",
    }.items():
        monkeypatch.setattr(emulated, name, path)
    shutil.copy(tiny_yaml, tmp_path / "params.yaml")

    emulated.stay_in_this_process()
    emulated.run_stages(tmp_path, 2, 50)

    with pytest.raises(RuntimeError, match="would not run on the emulated CPU"):
        multiprocessing.get_context("spawn").Process(target=print).start()
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    del stages["fetch"]
    for stage in stages.values():
        for group in ("outs", "metrics", "plots"):
            for output in stage.get(group, []):
                path = output if isinstance(output, str) else next(iter(output))
                assert (tmp_path / path).exists()
