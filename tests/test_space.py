"""A space is read, and refused in one line where the train stage would refuse a value of it."""

import optuna
import pytest

from tools.search import space as spaces


@pytest.fixture
def read(tmp_path, params):
    def read(text: str) -> spaces.Space:
        (tmp_path / "space.yaml").write_text(text)
        return spaces.read(tmp_path / "space.yaml", params["train"])

    return read


def test_each_kind_of_range_gives_values_of_its_parameter(read):
    space = read(
        "train.learning_rate: {low: 0.0005, high: 0.02, log: true}\n"
        "train.epochs: {low: 3, high: 8}\n"
        "train.dropout: {low: 0, high: 0.5}\n"
        "train.schedule: [constant, cosine]\n"
        "train.filters: [[8], [8, 16]]\n"
        "train.shift: 0.1\n"
        "train.dense_units: []\n"
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    tried = [spaces.values_of(space, study.ask(space).params) for _ in range(200)]

    assert {each["epochs"] for each in tried} == set(range(3, 9))
    assert {each["schedule"] for each in tried} == {"constant", "cosine"}
    assert [8] in [each["filters"] for each in tried]
    assert all((each["shift"], each["dense_units"]) == (0.1, []) for each in tried)
    assert all(type(each["dropout"]) is float for each in tried)
    rates = sorted(each["learning_rate"] for each in tried)
    assert rates[0] >= 0.0005
    assert rates[-1] <= 0.02
    assert 0.002 < rates[100] < 0.005  # the middle of the magnitudes
    assert all(len(f"{rate:.10f}".rstrip("0").lstrip("0.")) <= spaces.DIGITS for rate in rates)


def test_values_are_what_would_be_suggested_for_them(read):
    space = read("train.epochs: {low: 3, high: 8}\ntrain.filters: [[8], [8, 16]]\n")
    for values in ({"epochs": 3, "filters": [8, 16]}, {"epochs": 8, "filters": [8]}):
        suggested = spaces.suggestion_of(space, values)
        assert spaces.values_of(space, suggested) == values
    assert spaces.suggestion_of(space, {"epochs": 9, "filters": [8]}) is None
    assert spaces.suggestion_of(space, {"epochs": 5, "filters": [9]}) is None


def test_the_fewest_epochs_are_those_of_the_shortest_trial(read):
    for text, fewest in (
        ("train.epochs: {low: 3, high: 8}", 3), ("train.epochs: [6, 4]", 4), ("train.shear: 1", 9),
    ):  # fmt: skip
        assert spaces.fewest_epochs(read(text), {"epochs": 9}) == fewest


def test_the_spaces_of_the_project_are_allowed(params):
    for path in (spaces.Path("searches")).glob("*.yaml"):
        space = spaces.read(path, params["train"])
        assert spaces.suggestion_of(space, params["train"]) or "epochs" in space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "names no parameters"),
        ("prepare.image_size: [8, 16]", "searched are parameters of train"),
        ("train.epoch: {low: 1, high: 2}", "unknown key in section 'train': 'epoch'; did you mean"),
        ("train.epochs: {low: 0, high: 2}", "train.epochs is 0; allowed: a whole number, 1 to"),
        ("train.epochs: {low: 1, high: 2.5}", "train.epochs is 2.5; allowed: a whole number"),
        ("train.dropout: {low: 0.5, high: 0.5}", "low is 0.5 and high 0.5; write two numbers"),
        ("train.dropout: {low: 0, high: 0.5, log: true}", "log: true needs a low above 0"),
        ("train.dropout: {low: 0, high: 0.5, step: 0.1}", "step is unknown; write one value"),
        ("train.dropout: {high: 0.5}", "is {'high': 0.5}; write one value, a list of choices, or"),
        ("train.dropout: 2", "train.dropout is 2; allowed: a number, 0 to below 1"),
        ("train.schedule: [cosine, linear]", "train.schedule is 'linear'; allowed: constant or"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(read, refusal, tmp_path, text, message):
    said = refusal(read, text)
    assert said.startswith(str(tmp_path / "space.yaml"))
    assert message in said
    assert "dvc repro" not in said
