"""dvc.yaml says what the code does, and `dvc repro` does what dvc.yaml says.

The real pipeline runs in a temporary clone, on real digits and a tiny network.
"""

import ast
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnn import archive
from cnn.archive import Adam
from cnn.kernels import build
from stages import prepare, report, train
from tests.clones import (
    ROOT,
    attempt,
    commit,
    dvc,
    environment,
    git,
    hashes,
    make,
    repro,
    run,
    set_params,
)
from tests.documents import blocks, check_output, parts

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = PIPELINE["stages"]
PACKAGES = ("cnn", "stages", "tools", "handwriting", "benchmarks")


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
    return path.startswith(("stages/", "cnn/", "packages/"))


def files_of(module: str) -> set[str]:
    """Return the file of a module of the project, as a path; none for what is no module.

    A package within a package holds code itself, and what is built of its other sources.
    """
    path = Path(*module.split("."))
    if (ROOT / path / "__init__.py").is_file() and len(path.parts) > 1:
        return {f"{path}/__init__.py"}
    return {f"{path}.py"} if (ROOT / f"{path}.py").is_file() else set()


def imports(path: str) -> set[str]:
    """Return the project's modules that a file imports, as paths."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= set().union(*map(files_of, modules))
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] in PACKAGES for alias in node.names)
    return found


def imported(stage: str) -> set[str]:
    """Return the files of a stage: its own and all that it imports, at any depth, C too."""
    found, waiting = set(), [f"stages/{stage}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imports(path)
    if "cnn/kernels/__init__.py" in found:
        found |= {f"cnn/kernels/{name}" for name in build.SOURCES}
    return found


@pytest.mark.parametrize(
    ("package", "below"),
    [
        ("cnn", {"cnn"}),
        ("stages", {"cnn"}),
        ("tools", {"cnn", "stages", "tools"}),
        ("handwriting", {"cnn", "handwriting"}),
    ],
)
def test_imports_only_go_down(package, below):
    for path in (ROOT / package).rglob("*.py"):
        found = {name.split("/")[0] for name in imports(path.relative_to(ROOT).as_posix())}
        assert found <= below, path


def test_what_a_file_imports_is_found_in_whatever_way_it_is_written(tmp_path, monkeypatch):
    for name in (
        "cnn/__init__.py",
        "cnn/files.py",
        "cnn/kernels/__init__.py",
        "cnn/kernels/build.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for text, expected in {
        "import os\nfrom os import path": [],
        "from cnn import files": ["files.py"],
        "from cnn.files import read, kernels": ["files.py"],
        "from cnn import kernels": ["kernels/__init__.py"],
        "from cnn.kernels import Kernels, load": ["kernels/__init__.py"],
        "from cnn.kernels import build": ["kernels/__init__.py", "kernels/build.py"],
        "def late():\n    from cnn.kernels.build import SOURCES": ["kernels/build.py"],
    }.items():
        (tmp_path / "own.py").write_text(text)
        assert sorted(imports("own.py")) == [f"cnn/{path}" for path in expected], text


# A stage is read from its first line to its last. What is long in the library is one thing: a file
# format with its reader and its writer, or all that reaches C.
@pytest.mark.parametrize(("package", "most"), [("stages", 250), ("cnn", 650)])
def test_no_file_is_long(package, most):
    for path in (ROOT / package).rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= most, path


@pytest.mark.parametrize("stage", STAGES)
def test_the_paths_of_a_command_are_the_data_it_depends_on_and_writes(stage):
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{stage}"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    flags.pop("--wanted", None)  # tells fetch what prepare reads; fetch itself does not read it
    paths = set(flags.values())
    if folder := flags.get("--reports"):
        paths.remove(folder)
        paths |= {path for path in outputs(stage) if path.startswith(f"{folder}/")}

    data = {path for path in STAGES[stage]["deps"] if not is_code(path)}

    assert paths == data | outputs(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_no_other(stage):
    code = {path for path in STAGES[stage]["deps"] if path.startswith(("stages/", "cnn/"))}

    assert code == imported(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_the_params_section_of_its_name(stage, params):
    """The report reads the whole file: it shows parameters, and refuses unknown sections."""
    if stage == "report":
        assert "params.yaml" in STAGES[stage]["deps"]
    else:
        others = {"evaluate": ["train.engine"]}.get(stage, [])  # which computes the model
        assert STAGES[stage]["params"] == [stage, *others]
        assert stage in params


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_what_it_does(stage):
    assert len(STAGES[stage]["desc"]) > 20


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_what_depends_on_versions_depends_on_those_of_the_packages_that_matter(stage):
    assert f"packages/{stage}.txt" in STAGES[stage]["deps"]
    assert "requirements.txt" not in STAGES[stage]["deps"]


def test_no_output_has_two_makers_and_every_input_has_one():
    made = [path for stage in STAGES for path in outputs(stage)]
    read = {path for stage in STAGES.values() for path in stage["deps"] if not is_code(path)}
    read -= {"${prepare.raw}", "params.yaml"}  # the one is by default what fetch writes

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


def test_the_artifact_is_the_model_of_the_pipeline():
    (artifact,) = PIPELINE["artifacts"].values()

    assert artifact["path"] in outputs("train")
    assert artifact["type"] == "model"


@pytest.fixture(scope="module")
def clone(tmp_path_factory, raw, tiny) -> Path:
    """A clone in which the pipeline has run, every result committed."""
    clone = make(tmp_path_factory.mktemp("pipeline") / "clone", tiny, raw)
    assert repro(clone) == list(STAGES)
    commit(clone, "results")
    return clone


def is_output(path: str) -> bool:
    named = set().union(*map(outputs, STAGES))
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


def test_a_second_run_does_nothing_and_all_is_clean(clone):
    assert repro(clone) == []
    assert json.loads(dvc(clone, "status", "--json")) == {}
    assert git(clone, "status", "--porcelain") == ""


def test_metrics_show_tells_the_accuracy(clone):
    shown = json.loads(dvc(clone, "metrics", "show", "--json"))

    metrics = json.loads((clone / "reports/evaluate/metrics.json").read_text())
    assert shown[""]["data"]["reports/evaluate/metrics.json"]["data"] == metrics


def test_a_change_of_evaluate_does_not_train_and_going_back_does_not_evaluate(clone, tiny):
    before = hashes(clone)

    set_params(clone, tiny | {"evaluate": tiny["evaluate"] | {"calibration_bins": 7}})
    ran = repro(clone)
    changed = {path for path, md5 in hashes(clone).items() if md5 != before[path]}
    set_params(clone, tiny)
    ran_back = repro(clone)

    assert "evaluate" in ran
    assert {"evaluate", "report"} >= set(ran)
    assert {"reports/evaluate/reliability.csv", "reports/evaluate/pictures"} <= changed
    assert not changed & {
        "models/cnn.keras",
        "data/predictions.npz",
        "reports/evaluate/confusion.csv",
    }
    assert {"report"} >= set(ran_back)  # the run cache brings evaluate's files back
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def test_the_size_of_the_images_is_a_parameter_that_the_run_cache_knows(clone, tiny):
    """It is the one that they have; DVC's run cache would pass over it if it were called size."""
    before = hashes(clone)
    set_params(clone, tiny | {"prepare": tiny["prepare"] | {"image_size": 28}})

    assert repro(clone) == ["prepare", "report"]
    set_params(clone, tiny)
    assert repro(clone) == ["report"]
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def test_the_other_engine_goes_through_the_whole_pipeline_and_back(clone, tiny):
    before = hashes(clone)
    set_params(clone, tiny | {"train": tiny["train"] | {"engine": "keras"}})

    assert repro(clone) == ["train", "evaluate", "report"]
    recorded = json.loads((clone / "reports/train/environment.json").read_text())
    assert (recorded["engine"], recorded["precision"]) == ("keras", "float32")
    assert "trained from scratch by Keras " in (clone / "reports/README.md").read_text()
    set_params(clone, tiny)
    assert repro(clone) == ["report"]
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def test_without_dvc_lock_the_run_cache_brings_all_but_report_back(clone):
    (clone / "dvc.lock").unlink()

    ran = repro(clone)

    assert ran == ["report"]
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/prepared/test.npz", "evaluate"),
        ("models/cnn.keras", "evaluate"),
    ],
)
def test_a_flipped_byte_is_noticed_by_the_reader_and_the_cure_cures(clone, path, stage):
    """In the file and in the cache, read-only there, so that DVC notices nothing."""
    whole, before = (clone / path).read_bytes(), hashes(clone)
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 1
    cached = clone / ".dvc/cache/files/md5" / before[path][:2] / before[path][2:]
    for place in (clone / path, cached):
        place.unlink()  # the one may be a link to the other
        place.write_bytes(broken)
    cached.chmod(0o444)

    done = attempt(clone, sys.executable, *shlex.split(command_of(stage))[1:])

    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {path}: ")
    assert "Traceback" not in done.stderr
    cure = line.split("run '")[1].rstrip("'")
    assert cure == "python -m tools.repair && dvc repro"

    run(clone, "bash", "-c", cure)

    assert (clone / path).read_bytes() == whole
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("flag", "stage"),
    [("raw", prepare), ("train", train), ("validation", train), ("predictions", report)],
)
def test_every_stage_refuses_a_flipped_byte(clone, tmp_path, monkeypatch, refusal, flag, stage):
    """Whatever it reads, and with nothing written."""
    monkeypatch.chdir(clone)
    words = shlex.split(command_of(stage.__name__.rpartition(".")[2]))[3:]
    flags = dict(zip(words[::2], words[1::2], strict=True))
    content = bytearray(Path(flags[f"--{flag}"]).read_bytes())
    content[len(content) // 2] ^= 1
    flags[f"--{flag}"] = str(tmp_path / "damaged.npz")
    (tmp_path / "damaged.npz").write_bytes(content)

    message = refusal(stage.main, [word for pair in flags.items() for word in pair])

    assert message.startswith(f"{tmp_path}/damaged.npz: is damaged or no npz (")
    assert message.endswith("run 'python -m tools.repair && dvc repro'")
    assert git(clone, "status", "--porcelain") == ""


def command_of(stage: str) -> str:
    return STAGES[stage]["cmd"].replace("${prepare.raw}", "data/raw/published.npz")


def test_a_refused_parameter_loses_nothing(clone, tiny):
    """DVC removes a stage's outputs before it can refuse: the line says how they come back."""
    before = hashes(clone)
    set_params(clone, tiny | {"train": tiny["train"] | {"learning_rate": 2}})

    done = attempt(clone, "dvc", "repro")

    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "train.learning_rate is 2; allowed: a number above 0 and at most 1" in line
    assert line.endswith("correct it and run 'dvc repro', which also brings back what DVC removed")

    set_params(clone, tiny)

    assert "train" not in repro(clone)
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def test_an_unknown_section_is_refused_though_no_parameter_changed(clone):
    params, before = (clone / "params.yaml").read_text(), hashes(clone)
    (clone / "params.yaml").write_text(f"{params}\ntrian: {{epochs: 50}}\n")

    done = attempt(clone, "dvc", "repro")
    (clone / "params.yaml").write_text(params)

    assert done.returncode != 0
    assert "params.yaml: unknown section 'trian'; did you mean 'train'?" in done.stderr
    assert set(repro(clone)) <= {"report"}
    assert hashes(clone) == before
    assert git(clone, "status", "--porcelain") == ""


def test_a_model_that_was_made_by_hand_is_followed_by_the_next_stages(clone):
    """As docs/experiments.md says it of a model that was trained further by hand."""
    path = clone / "models/cnn.keras"
    network, arrays = archive.read(path)
    arrays = [np.float32(0.9) * array for array in arrays]
    archive.write(path, network, arrays, Adam(0.1, 0.9, 0.9, 0.0, 0.0, 0, arrays, arrays, []))

    dvc(clone, "commit", "--force", "train")
    ran = repro(clone)

    assert ran == ["evaluate", "report"]
    assert "reports/evaluate/metrics.json" in git(clone, "status", "--porcelain")
    git(clone, "checkout", "--quiet", ".")
    dvc(clone, "checkout", "--force")
    assert repro(clone) == []


def test_two_branches_with_other_results_are_merged(clone, tiny):
    """As docs/experiments.md says it: take one side of what is computed, then run what is due."""
    for name, change in (("one", {"mistakes": 8}), ("two", {"calibration_bins": 7})):
        git(clone, "checkout", "--quiet", "-b", name, "main")
        set_params(clone, tiny | {"evaluate": tiny["evaluate"] | change})
        repro(clone)
        commit(clone, name)
    merged = attempt(clone, "git", "merge", "one")
    assert merged.returncode != 0  # dvc.lock and the reports are in conflict

    git(clone, "checkout", "--ours", "dvc.lock", "reports")
    both = {"mistakes": 8, "calibration_bins": 7}
    set_params(clone, tiny | {"evaluate": tiny["evaluate"] | both})
    repro(clone)
    commit(clone, "merged")

    assert json.loads(dvc(clone, "status", "--json")) == {}
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "checkout", "--quiet", "main")
    dvc(clone, "checkout", "--force")
    assert repro(clone) == []


def test_what_ran_here_another_machine_does_not_run(clone, tiny, tmp_path):
    """Not even what is in no commit; the other has no data and not a file of this one's cache."""
    storage = str(tmp_path / "storage")
    other_params = tiny | {"evaluate": tiny["evaluate"] | {"calibration_bins": 7}}
    set_params(clone, other_params)
    repro(clone)
    known = (clone / "reports/evaluate/reliability.csv").read_text()
    git(clone, "checkout", "--quiet", ".")
    dvc(clone, "checkout", "--force")
    dvc(clone, "remote", "add", "--local", "--default", "storage", storage)
    assert " runs and " in run(clone, "python", "-m", "tools.push_runs")
    other = tmp_path / "other" / "clone"
    run(clone, "git", "clone", "--quiet", str(clone), str(other))
    dvc(other, "remote", "add", "--local", "--default", "storage", storage)

    dvc(other, "pull")

    assert dvc(other, "status") == "Data and pipelines are up to date.\n"
    assert repro(other) == []
    set_params(other, other_params)
    assert repro(other, "--pull") == ["report"]
    assert (other / "reports/evaluate/reliability.csv").read_text() == known
    set_params(other, tiny)
    assert repro(other, "--pull") == ["report"]
    assert hashes(other) == hashes(clone)
    assert git(other, "status", "--porcelain") == ""


def test_a_clone_with_windows_line_endings_has_nothing_to_do(clone, tmp_path):
    run(
        clone,
        "git",
        "clone",
        "--quiet",
        "-c",
        "core.autocrlf=true",
        str(clone),
        str(tmp_path / "w"),
    )

    for name in git(clone, "ls-files").split("\n"):
        if name and name != "params.yaml":
            assert (tmp_path / "w" / name).read_bytes() == (clone / name).read_bytes(), name


@pytest.mark.parametrize("block", [block for block in blocks() if block.shown is None], ids=str)
def test_a_block_of_the_documents_prints_what_it_shows(block, clone):
    """In the order of the documents, whatever the numbers; the clone is as after `make repro`."""
    if block.language == "python":
        run(clone, "python", "-c", block.text)
        return
    for command, expected in parts(block.text):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=clone,
            env=environment(clone),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        check_output(expected, done.stdout, command)
