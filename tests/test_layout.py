"""dvc.yaml names what the code reads, writes and consists of, and imports only go down."""

import shlex

import pytest

from tests.helpers.imports import (
    PIPELINE,
    ROOT,
    STAGES,
    closure,
    files_below,
    imports,
    is_code,
    outputs,
)

# Each package, and those that it may import besides itself.
MAY_IMPORT = {
    "cnn/base": "",
    "cnn/published": "cnn/base",
    "cnn/data": "cnn/published cnn/base",
    "cnn/model": "cnn/base",
    "cnn/kernels": "cnn/model cnn/base",
    "cnn/training": "cnn/kernels cnn/model cnn/data cnn/base",
    "cnn/results": "cnn/base",
    "cnn/reporting": "cnn/results cnn/base",
    "distributed": "cnn",
    "stages": "distributed cnn",
    "handwriting": "cnn",
    "tools": "stages distributed cnn",
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_only_go_down(package):
    allowed = (package, *MAY_IMPORT[package].split())
    for path in (ROOT / package).rglob("*.py"):
        for found in imports(path.relative_to(ROOT).as_posix()):
            assert found.startswith(tuple(f"{name}/" for name in allowed)), path


def test_the_table_has_every_package_of_the_library():
    packages = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("cnn/*/*.py")}

    assert packages == {package for package in MAY_IMPORT if package.startswith("cnn/")}


def test_what_a_file_imports_is_found_in_whatever_way_it_is_written(tmp_path):
    texts = {"cnn/__init__.py": '"""Nothing."""', "cnn/files.py": "", "cnn/base/__init__.py": ""}
    texts |= {"cnn/kernels/__init__.py": '"""Code."""\nA = 1', "cnn/kernels/build.py": ""}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for number, (text, expected) in enumerate(
        {
            "import os\nfrom os import path": [],
            "from cnn import base, files": ["files.py"],
            "from cnn.files import read, kernels": ["files.py"],
            "from cnn import kernels": ["kernels/__init__.py"],
            "from cnn.kernels import Kernels, load": ["kernels/__init__.py"],
            "from cnn.kernels import build": ["kernels/__init__.py", "kernels/build.py"],
            "def late():\n    from cnn.kernels.build import A": [
                "kernels/__init__.py",
                "kernels/build.py",
            ],
        }.items()
    ):
        (tmp_path / f"own{number}.py").write_text(text)
        assert sorted(imports(f"own{number}.py", tmp_path)) == [
            f"cnn/{path}" for path in expected
        ], text


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
    paths = set(flags.values())
    if stage == "fetch":
        paths.remove("${prepare.raw}")  # it only compares the path with its own
    if folder := flags.get("--reports"):
        paths.remove(folder)
        paths |= {path for path in outputs(stage) if path.startswith(f"{folder}/")}

    data = {path for path in STAGES[stage]["deps"] if not is_code(path)}
    data = {path for path in data if not path.startswith("packages/")}

    assert paths == data | set(outputs(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_no_other(stage):
    assert files_below(STAGES[stage]["deps"]) == closure(stage)


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
    read = {path for path in read if not path.startswith("packages/")}
    read -= {"${prepare.raw}", "params.yaml"}  # the one is by default what fetch writes

    assert len(made) == len(set(made))
    assert read <= set(made)


@pytest.mark.parametrize("stage", STAGES)
def test_git_tracks_the_reports_and_dvc_the_rest(stage):
    for path, properties in outputs(stage).items():
        assert properties.get("cache", True) == (not path.startswith("reports/")), path


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_the_run_cache_is_on(stage):
    """DVC switches it off for a stage with a `cache: false` under outs, not under plots."""
    assert not any(isinstance(entry, dict) for entry in STAGES[stage]["outs"])


def test_the_artifact_is_the_model_of_the_pipeline():
    (artifact,) = PIPELINE["artifacts"].values()

    assert artifact["path"] in outputs("train")
    assert artifact["type"] == "model"
