"""dvc.yaml says what the code does, and `dvc repro` does what dvc.yaml says.

The real pipeline runs in a temporary clone, on real digits and a tiny network.
"""

import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import fetch

ROOT = Path(__file__).parent.parent
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = PIPELINE["stages"]


def entries(stage: str, *kinds: str) -> dict[str, dict]:
    """Return {path: properties} of a stage's outs, metrics or plots."""
    found = {}
    for kind in kinds:
        for entry in STAGES[stage].get(kind, []):
            found |= entry if isinstance(entry, dict) else {entry: {}}
    return found


def outputs(stage: str) -> set[str]:
    return set(entries(stage, "outs", "metrics", "plots"))


def is_code(path: str) -> bool:
    return path.startswith("stages/") or path == "requirements.txt"


def imported(module: str) -> set[str]:
    """Return the files of a module of `stages` and of all that it imports there, at any depth."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        path = f"stages/{name}.py"
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "stages":
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages."):
                waiting.append(node.module.removeprefix("stages."))
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("stages") for alias in node.names)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_the_paths_of_a_command_are_the_data_it_depends_on_and_writes(stage):
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{stage}"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    paths = set(flags.values())
    if folder := flags.get("--reports"):
        paths.remove(folder)
        paths |= {path for path in outputs(stage) if path.startswith(f"{folder}/")}

    data = {path for path in STAGES[stage]["deps"] if not is_code(path)}

    assert paths == data | outputs(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_no_other(stage):
    code = {path for path in STAGES[stage]["deps"] if path.startswith("stages/")}

    assert code == imported(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage):
    others = {f"stages/{other}.py" for other in STAGES if other != stage}

    assert not imported(stage) & others


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_params_section_of_its_name_if_it_reads_one(stage, params):
    reads = "load(arguments.params" in (ROOT / "stages" / f"{stage}.py").read_text()

    assert STAGES[stage].get("params", []) == ([stage] if reads else [])
    assert (stage in params) == reads


def test_every_section_of_params_yaml_belongs_to_a_stage(params):
    assert set(params) <= set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_what_it_does(stage):
    assert len(STAGES[stage]["desc"]) > 20


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_what_depends_on_library_versions_depends_on_the_lock_file(stage):
    assert "requirements.txt" in STAGES[stage]["deps"]


def test_no_output_has_two_makers_and_every_input_has_one():
    made = [path for stage in STAGES for path in outputs(stage)]
    read = {path for stage in STAGES.values() for path in stage["deps"] if not is_code(path)}

    assert len(made) == len(set(made))
    assert read <= set(made)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_the_run_cache_is_on(stage):
    """DVC switches it off for a stage with a `cache: false` under outs, not under plots."""
    assert all(properties.get("cache", True) for properties in entries(stage, "outs").values())


@pytest.mark.parametrize("stage", STAGES)
def test_git_tracks_the_reports_and_dvc_the_rest(stage):
    for path, properties in entries(stage, "outs", "metrics", "plots").items():
        assert properties.get("cache", True) == (not path.startswith("reports/")), path


def test_every_picture_that_is_drawn_is_a_plot():
    drawn = re.findall(r'write\("(\w+)", figure\)', (ROOT / "stages" / "figures.py").read_text())

    pictures = {path for path in entries("evaluate", "plots") if path.endswith(".png")}

    assert pictures == {f"reports/{name}.png" for name in drawn}


def test_the_artifact_is_the_model_of_the_pipeline():
    (artifact,) = PIPELINE["artifacts"].values()

    assert artifact["path"] in outputs("train")
    assert artifact["type"] == "model"


def environment(clone: Path) -> dict[str, str]:
    """Return the environment of a user whose home lies beside the clone and who has the data."""
    home = clone.parent / "home"
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DVC_", "GIT_", "KERAS_", "XDG_", "PYTEST_"))
    }
    return kept | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MNIST_DIR": str(home / "mnist"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "DVC_NO_ANALYTICS": "1",
    }


def run(clone: Path, *command: str) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        command, cwd=clone, env=environment(clone), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(clone: Path, *arguments: str) -> str:
    return run(clone, sys.executable, "-m", "dvc", *arguments)


def git(clone: Path, *arguments: str) -> str:
    return run(clone, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments)


def repro(clone: Path) -> list[str]:
    """Run `dvc repro`; return the stages that ran."""
    return re.findall(r"^Running stage '(\w+)'", dvc(clone, "repro"), re.MULTILINE)


def set_params(clone: Path, params: dict) -> None:
    (clone / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def hashes(clone: Path) -> dict[str, str]:
    """Return {path: MD5} of every output in dvc.lock."""
    lock = yaml.safe_load((clone / "dvc.lock").read_text(encoding="utf-8"))
    return {
        output["path"]: output["md5"]
        for stage in lock["stages"].values()
        for output in stage["outs"]
    }


@pytest.fixture(scope="module")
def make_clone(tmp_path_factory, raw, raw_npz, tiny):
    """Make a clone of what Git has here, with the tiny configuration and small data as published.

    Only the hashes of the published data are changed in the code of the clone.
    """
    base = tmp_path_factory.mktemp("pipeline")
    (base / "home" / "mnist").mkdir(parents=True)
    shutil.copy(raw_npz, base / "home" / "mnist" / "mnist.npz")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    names = [
        name
        for name in filter(None, listed)
        if not name.startswith(("tests/", "reports/")) and name != "dvc.lock"
    ]

    def call(folder: str) -> Path:
        clone = base / folder
        for name in names:
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
        source = clone / "stages" / "fetch.py"
        text = source.read_text(encoding="utf-8")
        for name, (_, published, _) in fetch.PUBLISHED.items():
            text = text.replace(published, hashlib.sha256(fetch.to_idx(raw[name])).hexdigest())
        source.write_text(text, encoding="utf-8")
        set_params(clone, tiny)
        git(clone, "init", "--quiet")
        git(clone, "add", ".")
        git(clone, "commit", "--quiet", "--message=first")
        return clone

    return call


@pytest.fixture(scope="module")
def clone(make_clone) -> Path:
    """A clone in which the pipeline has run, every result committed."""
    clone = make_clone("first")
    assert repro(clone) == list(STAGES)
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message=results")
    return clone


def test_the_pipeline_leaves_what_dvc_yaml_names_and_nothing_else(clone):
    named = set().union(*map(outputs, STAGES))
    written = {
        path.relative_to(clone).as_posix()
        for folder in ("data", "models", "reports")
        for path in (clone / folder).rglob("*")
        if path.is_file() and path.name != ".gitignore"
    }

    assert written == named


def test_git_has_the_reports_and_no_data(clone):
    tracked = set(git(clone, "ls-files", "data", "models", "reports").split())

    assert tracked == {
        path for stage in STAGES for path in outputs(stage) if path.startswith("reports/")
    }


def test_a_second_run_does_nothing_and_all_is_clean(clone):
    assert repro(clone) == []
    assert json.loads(dvc(clone, "status", "--json")) == {}
    assert git(clone, "status", "--porcelain") == ""


def test_metrics_show_tells_the_accuracy(clone):
    shown = json.loads(dvc(clone, "metrics", "show", "--json"))

    metrics = json.loads((clone / "reports" / "metrics.json").read_text())
    assert shown[""]["data"]["reports/metrics.json"]["data"] == metrics


def test_a_change_of_evaluate_does_not_train_and_going_back_does_not_evaluate(clone, tiny):
    before = hashes(clone)

    set_params(clone, tiny | {"evaluate": tiny["evaluate"] | {"calibration_bins": 7}})
    ran = repro(clone)
    changed = {path for path, md5 in hashes(clone).items() if md5 != before[path]}
    set_params(clone, tiny)
    ran_back = repro(clone)

    assert "evaluate" in ran
    assert {"evaluate", "report"} >= set(ran)
    assert {"reports/reliability.csv", "reports/reliability.png"} <= changed
    assert not changed & {"models/cnn.keras", "data/predictions.npz", "reports/confusion.csv"}
    assert {"report"} >= set(ran_back)  # the run cache brings evaluate's files back
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def test_without_dvc_lock_the_run_cache_brings_all_but_report_back(clone):
    (clone / "dvc.lock").unlink()

    ran = repro(clone)

    assert ran == ["report"]
    assert git(clone, "status", "--porcelain") == ""


def test_a_damaged_file_in_the_cache_is_noticed_by_its_reader(clone, tiny):
    path = clone / "data" / "prepared" / "test.npz"
    whole = path.read_bytes()
    path.unlink()  # it may be a link into the cache
    path.write_bytes(whole[:-1] + b"x")
    command = shlex.split(STAGES["evaluate"]["cmd"])

    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=clone,
        env=environment(clone),
        capture_output=True,
        text=True,
    )
    path.write_bytes(whole)

    assert done.returncode == 1
    assert done.stderr.startswith("error: data/prepared/test.npz: is damaged or was changed")
    assert done.stderr.count("\n") == 1


def test_another_clone_in_another_folder_gives_the_same_bytes(clone, make_clone):
    other = make_clone("second")
    repro(other)

    assert hashes(other) == hashes(clone)
