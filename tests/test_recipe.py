"""A recipe is a file of parameters that the stages admit, run by DVC under its name."""

import re
import subprocess

import pytest
import yaml

from cnn.base.params import load
from tests.helpers.clones import ROOT
from tests.test_params import SECTIONS
from tools import recipe

NAMES = sorted(path.stem for path in recipe.FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_exists_and_differs_from_the_default(params, tmp_path, name):
    chosen = recipe.load(name)
    for section, values in chosen.items():
        assert set(values) <= set(params[section])
        assert all(params[section][key] != value for key, value in values.items())
        path = tmp_path / f"{section}.yaml"
        path.write_text(yaml.safe_dump({section: params[section] | values}))
        load(path, section, SECTIONS[section])


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is_for_and_why_each_parameter(name):
    first, cost, found, *rest = (recipe.FOLDER / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ")
    assert cost.startswith("# Cost and result: ")
    assert found.startswith("# Found by: ")
    for space in re.findall(r"SPACE=(\S+\.yaml)", found):
        assert (ROOT / space).is_file()
    assert all("# " in line for line in rest if not line.endswith(":"))


def test_make_help_names_each_recipe():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert all(f"make {name} " in shown for name in NAMES)


def test_the_recipes_of_the_makefile_do_not_need_its_path():
    """GNU make 3.81 looks for a command on the PATH that it was started with."""
    lines = (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines()
    commands = {line.lstrip("\t@").split()[0] for line in lines if line.startswith("\t")}
    others = {each for each in commands if not each.startswith("$(BIN)/")}
    assert others <= {"$(PYTHON)", "$(INSTALL)", "$(COMPILE)", "sed", "touch", "rm"}


def test_dvc_is_asked_for_an_experiment_of_that_name(monkeypatch):
    asked = []

    class Done:
        returncode = 0

    monkeypatch.setattr(recipe, "git", lambda *_: b".git")
    monkeypatch.setattr(recipe, "on_commit", lambda changes: changes)
    monkeypatch.setattr(recipe.subprocess, "run", lambda words, **_: asked.append(words) or Done)

    recipe.main(["fashion", "-S", "train.seed=7", "--name", "fashion-7"])

    assert asked[0] == ["dvc", "exp", "remove", "--quiet", "fashion-7"]
    assert asked[1] == (
        ["dvc", "exp", "run", "--name", "fashion-7"]
        + recipe.words(recipe.load("fashion"))
        + ["-S", "train.seed=7"]
    )


def test_lists_go_without_blanks():
    assert recipe.words({"train": {"filters": [24, 48]}}) == ["-S", "train.filters=[24,48]"]


def test_an_unknown_recipe_is_one_line(refusal):
    assert refusal(recipe.load, "fats") == (
        f"recipes/fats.yaml: is missing; choose one of {', '.join(NAMES)}"
    )


def test_without_git_there_is_no_experiment_to_take_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.on_commit({"train": {"epochs": 2}}) == {"train": {"epochs": 2}}


def test_dvc_is_given_values_as_json():
    changes = {"prepare": {"raw": "meine Übung", "size": None}, "train": {"resume": False}}
    assert recipe.words(changes)[1::2] == [
        'prepare.raw="meine Übung"',
        "prepare.size=null",
        "train.resume=false",
    ]
