"""A file that is not the recorded one is refused; a file is written whole or not at all."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages import dataset, model
from stages.integrity import check_recorded, md5, recorded_outputs, replacing


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(path: str, stage: str) -> str:
    """Write a dvc.lock that knows `path` as it is now; return its MD5."""
    digest = hashlib.md5(Path(path).read_bytes()).hexdigest()
    output = {"path": path, "hash": "md5", "md5": digest, "size": 1}
    with open("dvc.lock", "w") as stream:
        yaml.safe_dump({"schema": "2.0", "stages": {stage: {"outs": [output]}}}, stream)
    return digest


def flip_byte(path: str, position: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


def test_md5_is_that_of_the_bytes(workspace):
    (workspace / "file").write_bytes(b"abc")

    assert md5("file") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321


def test_outputs_are_those_of_the_lock_file(workspace):
    (workspace / "a.npz").write_bytes(b"a")
    digest = record("a.npz", "prepare")

    assert recorded_outputs() == {"a.npz": ("prepare", digest)}


def test_without_a_lock_file_nothing_is_recorded(workspace):
    assert recorded_outputs() == {}


def test_a_lock_file_that_is_no_yaml_is_refused(workspace, refusal):
    (workspace / "dvc.lock").write_text("<<<<<<< HEAD\nstages: [\n")

    message = refusal(recorded_outputs)

    assert message.startswith("dvc.lock: cannot be read")
    assert "git checkout dvc.lock" in message


def test_the_recorded_file_passes(workspace):
    (workspace / "a.npz").write_bytes(b"a")
    record("a.npz", "prepare")

    check_recorded("a.npz")


def test_a_file_that_the_lock_does_not_know_passes(workspace):
    (workspace / "a.npz").write_bytes(b"a")
    (workspace / "b.npz").write_bytes(b"b")
    record("a.npz", "prepare")

    check_recorded("b.npz")


def test_a_missing_file_is_named_with_the_cure(workspace, refusal):
    assert refusal(check_recorded, "a.npz") == (
        "a.npz: cannot be read: No such file or directory; run 'dvc repro'"
    )


def test_a_flipped_byte_in_a_recorded_npz_is_refused_with_the_cure(workspace, refusal):
    dataset.write_arrays("train.npz", compressed=False, images=np.zeros(1000), labels=np.zeros(9))
    digest = record("train.npz", "prepare")
    flip_byte("train.npz", 500)

    message = refusal(dataset.read_arrays, "train.npz", ("images",))

    cached = f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    assert message.startswith("train.npz: is damaged or was changed by hand")
    assert message.endswith(f"'rm -f train.npz {cached} && dvc repro --force prepare'")


def test_a_flipped_byte_in_a_recorded_keras_file_is_refused_with_the_cure(workspace, refusal):
    (workspace / "cnn.keras").write_bytes(bytes(3000))
    digest = record("cnn.keras", "train")
    flip_byte("cnn.keras", 2000)

    message = refusal(model.load, "cnn.keras")

    cached = f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"
    assert message.startswith("cnn.keras: is damaged or was changed by hand")
    assert message.endswith(f"'rm -f cnn.keras {cached} && dvc repro --force train'")


def test_replacing_puts_the_file_in_place_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file"

    with replacing(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()

    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replacing_leaves_nothing_after_an_exception(tmp_path, error):
    with pytest.raises(error), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half of")
        raise error

    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_old_file_after_an_exception(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    with pytest.raises(OSError), replacing(path) as temporary:
        temporary.write_text("new")
        raise OSError

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
