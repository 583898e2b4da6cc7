"""A run in other surroundings is held against dvc.lock."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import surroundings
from benchmarks.surroundings import SURROUNDINGS, Surroundings
from tests.helpers.clones import ROOT

LOCK = "stages: {{train: {{outs: [{{path: models/cnn.keras, md5: '{}'}}]}}}}\n".format("1" * 32)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with what is cloned, and beside Git the data, as the working folder."""
    (tmp_path / "project/data/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    Path("dvc.lock").write_text(LOCK)
    Path("params.yaml").write_text("fetch: {dataset: mnist}\n")
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run(["git", *author, *words], check=True)
    surroundings.RAW.write_text("data")
    return Path()


@pytest.mark.parametrize(
    ("given", "code", "printed"),
    [
        (
            ('cat "$MNIST_DIR/mnist.npz" && test -f dvc.lock && test "$A" = yes', {"A": "yes"}),
            0,
            "1 of 1 outputs the same\n",
        ),
        ((f"sed -i s/{'1' * 32}/{'2' * 32}/ dvc.lock",), 1, "0 of 1 outputs the same\n"),
        (("echo no room >&2; exit 7",), 1, "1 of 1 outputs the same  exit code 7: no room\n\n"),
        (("exit 1", {}, "python9.99 -V"), 0, "not here: python9.99 -V\n"),
    ],
)
def test_a_run_is_judged_by_its_exit_code_and_the_recorded_outputs(
    project, monkeypatch, capsys, given, code, printed
):
    monkeypatch.setattr(surroundings, "SURROUNDINGS", {"mine": Surroundings(*given)})

    assert surroundings.main(["--only", "other"]) == 0
    assert surroundings.main([]) == code
    assert capsys.readouterr().out.split(maxsplit=1) == ["mine", printed]


@pytest.mark.parametrize(
    ("name", "code", "printed"),
    [
        ("64 cores reported", "from cnn.base.program import cores; print(cores())", "64"),
        (
            "oldest kernels of numpy and OpenBLAS",
            "import numpy, threadpoolctl\n"
            "from numpy._core._multiarray_umath import __cpu_features__ as has\n"
            "architecture = threadpoolctl.threadpool_info()[0]['architecture']\n"
            "print(has['X86_V2'], has['X86_V3'], architecture)",
            "True False Katmai",  # OpenBLAS' name for all that has SSE only
        ),
    ],
)
def test_surroundings_are_what_their_names_say(tmp_path, name, code, printed):
    surroundings.prepare(tmp_path)
    (tmp_path / "clone").mkdir()
    variables = SURROUNDINGS[name].variables
    paths = f"{variables.get('PYTHONPATH', '')}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "clone",
        env=surroundings.environment_with_python() | variables | {"PYTHONPATH": paths},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == printed
