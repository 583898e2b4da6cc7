"""What a model file must be before Keras builds anything from it."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from stages import integrity
from stages.params import UserError
from tools import checked_model


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        checked_model.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def changed(reader: Path, path: Path, change) -> Path:
    """Write a model whose config `change` altered."""
    with zipfile.ZipFile(reader) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config["config"]["layers"])
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return path


def test_a_layer_of_hundreds_of_gigabytes_is_refused(reader, tmp_path):
    def wide(layers):
        layers[-1]["config"]["units"] = 10**9

    def claims(layers):
        layers[-1]["build_config"]["input_shape"] = [None, 10**10]

    def deep(layers):
        layers[1]["config"]["filters"] = 10**7

    def foreign(layers):
        layers[2]["class_name"] = "Lambda"

    def negative(layers):  # less than no weights would make up for the ten thousand million
        layers[-2]["config"]["units"] = -(10**10)

    def parted(layers):
        layers[2]["module"] = "os"

    for change, cause in [(wide, "asks for"), (claims, "does not fit"), (deep, "does not fit")]:
        assert cause in refused(changed(reader, tmp_path / "m.keras", change))
    assert "has the output [-10000000000]" in refused(
        changed(reader, tmp_path / "m.keras", negative)
    )
    assert "Lambda" in refused(changed(reader, tmp_path / "m.keras", foreign))
    assert "does not fit" in refused(changed(reader, tmp_path / "m.keras", parted))
    assert "not that of a Keras" in refused(
        changed(reader, tmp_path / "m.keras", lambda layers: layers.append("text"))
    )


def test_a_zip_bomb_and_a_strange_zip_are_refused(reader, tmp_path):
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", b" " * 30_000_000)
        archive.writestr("model.weights.h5", b"")
    assert "config.json would take 30,000,000 bytes" in refused(bomb)
    strange = tmp_path / "strange.keras"
    with zipfile.ZipFile(strange, "w") as archive:
        archive.writestr("../config.json", "{}")
    assert "does not hold exactly" in refused(strange)


def test_a_damaged_model_is_refused(reader, tmp_path):
    data = bytearray(reader.read_bytes())
    path = tmp_path / "m.keras"
    for damage in (b"", b"text", bytes(data[:2000])):
        path.write_bytes(damage)
        assert "not a whole .keras file" in refused(path)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "is damaged" in refused(path)
    os.mkfifo(tmp_path / "pipe.keras")
    assert "not a regular file" in refused(tmp_path / "pipe.keras")
    assert "No such file" in refused(tmp_path / "missing.keras")


def test_a_model_of_another_form_is_refused(tf, tmp_path):
    from keras import Input, Sequential, layers

    def save(side: int, *last: layers.Layer) -> Path:
        path = tmp_path / "m.keras"
        Sequential([Input((side, side, 1)), layers.Flatten(), *last]).save(path)
        return path

    assert "its input is [32, 32, 1]" in refused(save(32, layers.Dense(10)))
    assert "its output is [11]" in refused(save(28, layers.Dense(11)))
    assert "not 10 probabilities" in refused(save(28, layers.Dense(10)))


def test_the_pipelines_own_model_is_held_against_dvc_lock(reader, tmp_path, capsys):
    own = tmp_path / "models" / "cnn.keras"
    own.parent.mkdir()
    shutil.copy(reader, own)
    lock = tmp_path / "dvc.lock"

    def record(md5: str) -> None:
        outs = [{"path": "models/cnn.keras", "md5": md5}]
        lock.write_text(yaml.safe_dump({"stages": {"train": {"outs": outs}}}))

    record(integrity.md5(own))
    checked_model.load(own, lock)
    assert capsys.readouterr().err == ""
    record("3" * 32)
    checked_model.load(reader, lock)  # another path
    assert capsys.readouterr().err == ""
    checked_model.load(own, lock)
    assert capsys.readouterr().err == (f"warning: {own}: not the model that dvc.lock records\n")


def with_weights(reader: Path, path: Path, weights: bytes) -> Path:
    """Write a model with other bytes for its weights."""
    with zipfile.ZipFile(reader) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, weights if name.endswith("h5") else old.read(name))
    return path


def test_weights_in_a_damaged_h5_are_refused(reader, tmp_path):
    with zipfile.ZipFile(reader) as archive:
        cut = archive.read("model.weights.h5")[:3000]
    assert "not a whole .keras file" in refused(with_weights(reader, tmp_path / "m.keras", cut))


def test_weights_that_unfold_to_gigabytes_are_refused(reader, tmp_path):
    import h5py

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (30_000, 30_000), "f4", compression="gzip")  # none of it written
    weights = (tmp_path / "weights.h5").read_bytes()
    assert len(weights) < 100_000

    message = refused(with_weights(reader, tmp_path / "m.keras", weights))

    assert "its weights would take 3,600,000,000 bytes" in message
