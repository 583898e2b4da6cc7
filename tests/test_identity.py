"""What a training depends on has a name, and changes with what it names."""

import hashlib

import pytest

from cnn import identity
from cnn.params import read_section
from stages import train


@pytest.fixture
def described(tiny_yaml, tmp_path):
    """Call with parameters that differ; every other part stays."""
    data = tmp_path / "train.npz"
    data.write_bytes(b"images")
    section = read_section(tiny_yaml, "train")

    def call(environment=None, **changed):
        params = train.TrainParams(**(section | changed))
        return identity.of_training(
            params, {"training data": data}, [train.__file__], environment or {"keras": "3"}
        )

    call.data = data
    return call


def test_each_part_is_there_under_its_name(described):
    found = described()

    assert found["train.seed"] == "42"
    assert found["train.filters"] == "[8, 16]"
    assert found["training data"] == hashlib.sha256(b"images").hexdigest()[:16]
    assert found["keras"] == "3"
    assert {"cnn.steps", "cnn.engine", "cnn.adam", "stages.train"} <= set(found)


def test_a_change_of_any_part_changes_the_key_and_is_named(described):
    first = described()
    others = {"train.seed": described(seed=43), "keras": described({"keras": "4"})}
    described.data.write_bytes(b"others")
    others["training data"] = described()

    for name, other in others.items():
        assert identity.differences(first, other) == [name]
        assert identity.key(first) != identity.key(other)
    assert identity.key(first) == identity.key(dict(reversed(first.items())))


def test_what_is_missing_is_named(tmp_path, refusal):
    path = tmp_path / "none.npz"
    assert refusal(identity.digest, path) == (
        f"{path}: cannot be read: No such file or directory; run 'dvc repro'"
    )
