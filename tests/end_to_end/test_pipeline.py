"""`dvc repro` does what dvc.yaml says: what has changed, and no more; and nothing is ever lost."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from cnn.base.params import read_yaml
from cnn.model import archive
from cnn.model.archive import Adam
from stages import evaluate, prepare, report, train
from tests.helpers.clones import attempt, dvc, git, hashes, repro, run, set_params
from tests.helpers.imports import PACKAGES, STAGES, closure, outputs

REPAIR = "python -m tools.repair && dvc repro"


@pytest.fixture(autouse=True)
def untouched(clone):
    """Whatever a test does, in the end the clone is as it was."""
    before = hashes(clone)
    yield
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def is_output(path: str) -> bool:
    named = {path for stage in STAGES for path in outputs(stage)}
    return path in named or any(path.startswith(f"{folder}/") for folder in named)


def test_the_pipeline_leaves_what_dvc_yaml_names_and_nothing_else(clone):
    written = [
        path.relative_to(clone).as_posix()
        for folder in ("data", "models", "reports")
        for path in (clone / folder).rglob("*")
        if path.is_file() and path.name != ".gitignore"
    ]

    assert all(map(is_output, written))
    assert all((clone / path).exists() for stage in STAGES for path in outputs(stage))


def test_git_has_the_reports_and_no_data(clone):
    tracked = git(clone, "ls-files", "data", "models", "reports").split()

    kept = [path for path in tracked if not path.endswith(".gitignore")]
    assert all(path.startswith("reports/") and is_output(path) for path in kept)
    assert {"reports/README.md", "reports/evaluate/metrics.json"} <= set(kept)


def test_a_second_run_does_nothing_though_python_has_compiled_all_code(clone):
    run(clone, "python", "-m", "compileall", "-q", *PACKAGES)

    assert list(clone.glob("cnn/**/__pycache__/*.pyc"))
    assert repro(clone) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_for_a_change_of_its_own_code_and_of_no_other(clone, stage):
    """All files of code and text are changed that it does not import, at any depth."""
    names = git(clone, "ls-files", "*.py", "*.[ch]", "*.md", ":!reports", ":!*/__init__.py").split()
    changed = set(names) - closure(stage)
    for name in changed:
        path = clone / name
        comment = {".py": "# a comment", ".md": "a word"}.get(path.suffix, "// a comment")
        path.write_text(f"{path.read_text()}\n{comment}\n")

    status = json.loads(dvc(clone, "status", "--json"))
    git(clone, "checkout", "--quiet", ".")

    assert len(changed) > 20
    assert stage not in status
    assert set(status) == {other for other in STAGES if closure(other) & changed}
    assert len(status) >= 3


def test_a_change_of_evaluate_does_not_train_and_going_back_does_not_evaluate(clone, tiny):
    before = hashes(clone)

    set_params(clone, tiny | {"evaluate": tiny["evaluate"] | {"calibration_bins": 7}})
    ran = repro(clone)
    changed = {path for path, md5 in hashes(clone).items() if md5 != before[path]}
    set_params(clone, tiny)

    assert ran == ["evaluate", "report"]
    assert {"reports/evaluate/reliability.csv", "reports/evaluate/pictures"} <= changed
    assert not changed & {
        "models/cnn.keras",
        "data/predictions.npz",
        "reports/evaluate/confusion.csv",
    }
    assert repro(clone) == ["report"]  # the run cache brings evaluate's files back


def test_the_other_engine_goes_through_the_whole_pipeline_and_back(clone, tiny):
    set_params(clone, tiny | {"train": tiny["train"] | {"engine": "keras"}})

    assert repro(clone) == ["train", "evaluate", "report"]
    recorded = json.loads((clone / "reports/train/environment.json").read_text())
    assert (recorded["engine"], recorded["precision"]) == ("keras", "float32")
    assert "trained from scratch by Keras " in (clone / "reports/README.md").read_text()
    set_params(clone, tiny)
    assert repro(clone) == ["report"]


def test_without_dvc_lock_the_run_cache_brings_all_but_report_back(clone):
    (clone / "dvc.lock").unlink()

    assert repro(clone) == ["report"]


def flags_of(stage: str) -> dict[str, str]:
    """Return {flag: path} of a stage's command."""
    words = shlex.split(STAGES[stage]["cmd"].replace("${prepare.raw}", "data/raw/published.npz"))
    return dict(zip(words[3::2], words[4::2], strict=True))


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("stage", "flag"),
    [
        (prepare, "--raw"),
        (train, "--train"),
        (train, "--validation"),
        (evaluate, "--test"),
        (evaluate, "--model"),
        (report, "--predictions"),
    ],
)
def test_a_stage_refuses_a_flipped_byte_in_whatever_it_reads(
    clone, tmp_path, monkeypatch, refusal, stage, flag
):
    monkeypatch.chdir(clone)
    flags = flags_of(stage.__name__.rpartition(".")[2])
    damaged = tmp_path / Path(flags[flag]).name
    damaged.write_bytes(flipped(Path(flags[flag])))
    flags[flag] = str(damaged)

    message = refusal(stage.main, [word for pair in flags.items() for word in pair])

    assert message.startswith(f"{damaged}: is damaged or no ")
    assert message.endswith(f"run '{REPAIR}'")


def test_what_was_damaged_in_the_cache_too_is_whole_after_the_cure(clone):
    """The cache's files are read-only, so that DVC notices nothing by itself."""
    whole = {}
    for name in ("data/prepared/test.npz", "models/cnn.keras"):
        path, md5 = clone / name, hashes(clone)[name]
        whole[path], broken = path.read_bytes(), flipped(path)
        cached = clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        for place in (path, cached):
            place.unlink()  # the one may be a link to the other
            place.write_bytes(broken)
        cached.chmod(0o444)

    run(clone, "bash", "-c", REPAIR)

    assert {path: path.read_bytes() for path in whole} == whole


def test_what_is_refused_loses_nothing(clone, tiny):
    """DVC removes a stage's outputs before it can refuse: the line says how they come back."""
    document = tiny | {"train": tiny["train"] | {"learning_rate": 2}}
    for wrong, text in (
        (document, "train.learning_rate is 2; allowed: a number, above 0, at most 1"),
        (tiny | {"trian": {"epochs": 50}}, "unknown section 'trian'; did you mean 'train'?"),
    ):
        set_params(clone, wrong)

        done = attempt(clone, "dvc", "repro")

        assert done.returncode != 0
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert f"params.yaml: {text}" in line
        assert line.endswith(
            "correct it and run 'dvc repro', which also brings back what DVC removed"
        )
    set_params(clone, tiny)
    assert repro(clone) == ["report"]


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
def test_a_model_is_trained_further_without_harm_to_the_cache(clone, kind):
    """As docs/experiments.md says it, where the cache is linked, as docs/large-data.md says."""
    dvc(clone, "config", "--local", "cache.type", kind)
    dvc(clone, "checkout", "--relink", "models/cnn.keras")
    path = clone / "models/cnn.keras"
    committed = path.read_bytes()

    dvc(clone, "unprotect", "models/cnn.keras")
    network, arrays = archive.read(path)
    trained = clone / "trained.keras"
    archive.write(
        trained, network, [np.float32(0.8) * each for each in arrays],
        Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, []),
    )  # fmt: skip
    path.write_bytes(trained.read_bytes())  # in place, as Keras saves
    trained.unlink()
    dvc(clone, "commit", "--force", "train")

    assert "nothing is damaged" in run(clone, "python", "-m", "tools.repair")
    git(clone, "checkout", "--quiet", ".")
    dvc(clone, "checkout", "--force")
    assert path.read_bytes() == committed
    dvc(clone, "config", "--local", "--unset", "cache.type")
    dvc(clone, "unprotect", "models/cnn.keras")


def test_of_a_committed_object_that_is_damaged_the_commit_is_named(clone):
    """Without `dvc unprotect`, what writes into a linked model writes into the cache."""
    commit = git(clone, "log", "--format=%h", "--max-count=1", "--", "dvc.lock").strip()
    lock = read_yaml(clone / "dvc.lock")
    digest = lock["stages"]["train"]["outs"][0]["md5"]
    cached = clone / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    whole = cached.read_bytes()
    cached.chmod(0o644)
    cached.write_bytes(whole[:-1])

    said = run(clone, "python", "-m", "tools.repair")

    assert f"{digest[2:]}: models/cnn.keras of commit {commit}\n" in said
    cached.write_bytes(whole)
    cached.chmod(0o444)


def test_a_model_that_was_made_by_hand_is_followed_by_the_next_stages(clone):
    """As docs/experiments.md says it of a model that was trained further by hand."""
    path = clone / "models/cnn.keras"
    network, arrays = archive.read(path)
    arrays = [np.float32(0.9) * array for array in arrays]
    archive.write(path, network, arrays, Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, []))

    dvc(clone, "commit", "--force", "train")

    assert repro(clone) == ["evaluate", "report"]
    assert "reports/evaluate/metrics.json" in git(clone, "status", "--porcelain")
    git(clone, "checkout", "--quiet", ".")
    dvc(clone, "checkout", "--force")
