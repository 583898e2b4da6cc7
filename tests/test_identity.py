"""What a training depends on has a name, and changes with what it names."""

import hashlib
import shutil

import pytest

from cnn import identity
from cnn.kernels import build
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
            params, {"training data": data}, [train.__file__], environment or {"numpy": "3"}
        )

    call.data = data
    return call


def test_each_part_is_there_under_its_name(described):
    found = described()

    assert found["train.seed"] == "42"
    assert found["train.filters"] == "[8, 16]"
    assert found["train.dense_units"] == "[32]"
    assert found["training data"] == hashlib.sha256(b"images").hexdigest()[:16]
    assert found["numpy"] == "3"
    assert {"cnn.engine", "cnn.network", "cnn.kernels", "cnn.kernels' C", "stages.train"} <= set(
        found
    )


def test_a_change_of_any_part_changes_the_key_and_is_named(described, tmp_path, monkeypatch):
    first = described()
    others = {
        "train.seed": described(seed=43),
        "train.dense_units": described(dense_units=[32, 32]),
        "numpy": described({"numpy": "4"}),
    }
    before = described.data.read_bytes()
    described.data.write_bytes(b"others")
    others["training data"] = described()
    described.data.write_bytes(before)
    for name in build.SOURCES:
        shutil.copy(build.HERE / name, tmp_path)
    (tmp_path / "primitives.h").write_text("/* another order */")
    monkeypatch.setattr(build, "HERE", tmp_path)
    others["cnn.kernels' C"] = described()

    for name, other in others.items():
        assert identity.differences(first, other) == [name]
        assert identity.key(first) != identity.key(other)
    assert identity.key(first) == identity.key(dict(reversed(first.items())))


def test_a_change_of_the_code_is_named(described, tmp_path, monkeypatch):
    first = described()
    other = tmp_path / "engine.py"
    other.write_text("another training")

    monkeypatch.setattr("cnn.engine.__file__", str(other))

    assert identity.differences(first, described()) == ["cnn.engine"]


def test_whether_it_goes_on_makes_no_other_training(described):
    assert described(resume=True) == described(resume=False)


def test_what_is_missing_is_named(tmp_path, refusal):
    path = tmp_path / "none.npz"
    assert refusal(identity.digest, path) == (
        f"{path}: cannot be read: No such file or directory; run 'dvc repro'"
    )
