"""The model file: the same bytes on every run, and checked before Keras builds anything from it."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnn import archive, data, model
from cnn.files import CURE
from cnn.runtime import keras

FORM = (28, 28, 1), 10
ANOTHER = "; choose another, or run 'dvc repro' for one that fits"


@pytest.fixture
def refused(refusal):
    """Return why a file is refused, without its name; what is so refused reaches no Keras."""

    def call(path: Path, form=FORM) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive, "keras", None)
            message = refusal(archive.load, path, *form)
        assert message.startswith(f"{path}: ")
        assert len(message) < 400 + len(str(path))
        return message.removeprefix(f"{path}: ").removesuffix(ANOTHER)

    return call


@pytest.fixture
def compiled(tf):
    """Build a small network with its optimizer."""

    def call(seed: int = 1, shape=(28, 28, 1), classes: int = 10, averaging: float = 0.0):
        keras.utils.set_random_seed(seed)
        form = model.NetworkParams(filters=(4, 8), kernel_size=3, dense_units=16, dropout=0.0)
        network = model.build(form, shape, classes)
        optimizer = keras.optimizers.Adam(
            use_ema=averaging > 0, ema_momentum=averaging, name="adam"
        )
        network.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        optimizer.build(network.trainable_variables)
        return network

    return call


def rewritten(source: Path, path: Path, **entries) -> Path:
    """Write a model with other bytes for its `config` or its `weights`."""
    names = {"config": "config.json", "weights": "model.weights.h5"}
    entries = {names[short]: content for short, content in entries.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, entries.get(name, old.read(name)))
    return path


def changed(source: Path, path: Path, change) -> Path:
    """Write a model whose layers in config.json `change` altered."""
    with zipfile.ZipFile(source) as old:
        config = json.loads(old.read("config.json"))
    change(config["config"]["layers"])
    return rewritten(source, path, config=json.dumps(config).encode())


def test_the_same_model_gives_the_same_bytes_whatever_was_built_before(tmp_path, compiled):
    archive.save(compiled(), tmp_path / "a.keras")
    compiled(seed=2)
    archive.save(compiled(), tmp_path / "b.keras")
    archive.save(compiled(seed=2), tmp_path / "c.keras")

    a, b, c = ((tmp_path / f"{name}.keras").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "b.keras", "c.keras"]


def test_two_saves_of_one_model_are_the_same_bytes(tmp_path, compiled):
    network = compiled()
    for name in ("a.keras", "b.keras"):
        archive.save(network, tmp_path / name)

    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


def test_the_file_is_whole_and_carries_no_time(tmp_path, compiled):
    path = tmp_path / "cnn.keras"
    archive.save(compiled(), path)

    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b'"date_saved": "1980-01-01@00:00:00"' in file.read("metadata.json")


def test_shared_objects_stay_shared_under_new_numbers():
    config = {"a": {"shared_object_id": 140_000}, "b": [{"shared_object_id": 139_000}]}
    config |= {"c": {"shared_object_id": 140_000}, "d": {"shared_object_id": None}}

    assert archive._renumber(config, {}) == {
        "a": {"shared_object_id": 1},
        "b": [{"shared_object_id": 2}],
        "c": {"shared_object_id": 1},
        "d": {"shared_object_id": None},
    }


def test_a_failing_save_leaves_nothing(tmp_path, compiled, monkeypatch):
    def fail(name, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_canonical", fail)

    with pytest.raises(OSError):
        archive.save(compiled(), tmp_path / "cnn.keras")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "classes"), [((28, 28, 1), 10), ((8, 8, 3), 2), ((9, 40, 1), 100)]
)
def test_the_predictions_survive_the_file(tmp_path, compiled, shape, classes):
    network = compiled(shape=shape, classes=classes, averaging=0.9)
    path = tmp_path / "cnn.keras"
    archive.save(network, path)
    images = np.random.default_rng(0).random((3, *shape), np.float32)

    loaded = archive.load(path, shape, classes)

    np.testing.assert_array_equal(loaded(images), network(images))


def test_what_is_read_is_the_file(reader):
    assert archive.read(reader, *FORM) == reader.read_bytes()


def test_plain_keras_trains_the_model_further_and_what_it_saves_is_read(
    tmp_path, prepared, trained, tf
):
    images, labels, _ = data.load(prepared / "train.npz")
    network = keras.models.load_model(trained / "cnn.keras")
    steps = int(network.optimizer.iterations)
    before = network.get_weights()

    network.fit(images[:64], labels[:64], batch_size=32, verbose=0)
    network.save(tmp_path / "further.keras")

    assert steps == -(-len(images) // 32)
    assert int(network.optimizer.iterations) == steps + 2
    after = archive.load(tmp_path / "further.keras", *FORM).get_weights()
    for ours, theirs in zip(after, network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


LAYERS = {
    "2^31 units": (lambda layers: layers[-1]["config"].update(units=2**31), "asks for"),
    "a layer that claims a large input": (
        lambda layers: layers[-1]["build_config"].update(input_shape=[None, 10**10]),
        "does not fit the one before",
    ),
    "ten million filters": (
        lambda layers: layers[1]["config"].update(filters=10**7),
        "does not fit the one before",
    ),
    # Less than no weights would make up for the ten thousand million.
    "a negative layer": (
        lambda layers: layers[-2]["config"].update(units=-(10**10)),
        "has the output [-10000000000]",
    ),
    "a Lambda": (
        lambda layers: layers[2].update(class_name="Lambda"),
        "its layer Lambda is not one that is known here",
    ),
    "a layer of another module": (
        lambda layers: layers[2].update(module="os"),
        "does not fit the one before",
    ),
    "no layer": (lambda layers: layers.append("text"), "not that of a Keras Sequential model"),
    "a dilated window": (
        lambda layers: layers[1]["config"].update(dilation_rate=[2, 2]),
        "a window in it has no size, or holes",
    ),
    "a layer whose name is a line break": (
        lambda layers: layers[2].update(class_name="A\nB"),
        "is not one that is known here",
    ),
    "a layer with a long name": (
        lambda layers: layers[2].update(class_name="A" * 100_000),
        "is not one that is known here",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_are_not_what_they_should_be_are_refused(reader, tmp_path, refused, name):
    change, cause = LAYERS[name]

    assert cause in refused(changed(reader, tmp_path / "m.keras", change))


@pytest.mark.parametrize(
    "config",
    [b"", b"{", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000]
    + [b'{"config": {"layers": [{"class_name": "InputLayer", "config": {}}]}}']
    + [b'{"module": "os", "class_name": "system", "config": {}}'],
    ids=["none", "half", "object", "list", "null", "bytes", "brackets", "braces", "layer", "os"],
)
def test_another_config_is_refused(reader, tmp_path, refused, config):
    message = refused(rewritten(reader, tmp_path / "m.keras", config=config))

    assert message == "its config.json is not that of a Keras Sequential model"


def test_a_zip_bomb_is_refused_at_once(tmp_path, refused, monkeypatch):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(2**20), zipfile.ZIP_DEFLATED)
        file.infolist()[-1].file_size = 600 * 2**20  # which is what a zip is asked for

    def unfold(*_):
        raise AssertionError("it was unfolded")

    monkeypatch.setattr(zipfile.ZipFile, "open", unfold)
    assert refused(path) == "its model.weights.h5 is compressed, which Keras never does"


def test_a_description_too_long_is_refused(reader, tmp_path, refused):
    path = rewritten(reader, tmp_path / "m.keras", config=b" " * 30_000_000)

    assert refused(path) == "its config.json has 30,000,000 bytes"


@pytest.mark.parametrize(
    "names",
    [
        ["../config.json"],
        ["config.json", "model.weights.h5"],
        ["config.json", "metadata.json", "model.weights.h5", "more"],
        ["config.json", "metadata.json", "model.weights.h5", "config.json"],
    ],
    ids=["elsewhere", "too few", "too many", "twice"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_of_other_entries_is_refused(tmp_path, refused, names):
    path = tmp_path / "strange.keras"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "{}")

    assert refused(path) == (
        "it does not hold exactly config.json, metadata.json, model.weights.h5"
    )


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, trained, refused, share):
    path = tmp_path / "cnn.keras"
    content = (trained / "cnn.keras").read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    message = refused(path)

    assert message.startswith("is damaged or no .keras file (")
    assert message.endswith(f"; {CURE}")


def test_a_flipped_byte_is_refused(tmp_path, trained, refused):
    path = tmp_path / "cnn.keras"
    content = bytearray((trained / "cnn.keras").read_bytes())
    content[len(content) // 2] ^= 1  # among the weights: still a number
    path.write_bytes(content)

    assert refused(path) == f"its model.weights.h5 is damaged; {CURE}"


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path, refused):
    assert refused(tmp_path / "cnn.keras") == "is missing; run 'make repro'"


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.keras")

    assert refused(tmp_path / "pipe.keras") == "not a regular file"
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (((28, 28, 3), 10), "its input is [28, 28, 1], not [28, 28, 3]"),
        (((32, 28, 1), 10), "its input is [28, 28, 1], not [32, 28, 1]"),
        (((28, 28, 1), 26), "its output is [10], not [26]"),
    ],
    ids=["colour", "size", "classes"],
)
def test_a_model_of_another_form_is_refused(reader, refused, form, reason):
    assert refused(reader, form) == reason


def test_weights_in_a_damaged_h5_are_refused(reader, tmp_path, refused):
    with zipfile.ZipFile(reader) as file:
        whole = file.read("model.weights.h5")

    path = rewritten(reader, tmp_path / "m.keras", weights=whole[: len(whole) * 9 // 10])

    assert refused(path).startswith("is damaged or no .keras file (")


def test_fewer_weights_than_the_layers_need_are_refused(reader, tmp_path, refused):
    path = rewritten(reader, tmp_path / "m.keras", weights=bytes(3000))

    assert "and has 3,000 bytes of them" in refused(path)


def test_weights_that_unfold_to_gigabytes_are_refused(reader, tmp_path, refused):
    import h5py

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (30_000, 30_000), "f4", compression="gzip")  # none of it written
        file["padding"] = np.zeros(2**16, np.float32)
    weights = (tmp_path / "weights.h5").read_bytes()
    assert len(weights) < 500_000

    message = refused(rewritten(reader, tmp_path / "m.keras", weights=weights))

    assert message == "its weights would take 3,600,262,144 bytes"


def test_what_keras_cannot_load_is_refused(reader, tmp_path, refusal):
    path = changed(
        reader, tmp_path / "m.keras", lambda layers: layers[1]["config"].update(activation="none")
    )

    message = refusal(archive.load, path, *FORM)

    assert message.startswith(f"{path}: Keras cannot load it: ")


@pytest.mark.parametrize(
    ("values", "are"),
    [
        ([[0.25, 0.75], [1, 0]], True),
        ([[0.5, 0.5], [0.5, np.nan]], False),
        ([[0.5, 0.5], [np.inf, 0]], False),
        ([[1.5, -0.5]], False),
        ([[0.6, 0.6]], False),
    ],
)
def test_probabilities_are_told_from_other_numbers(values, are):
    assert archive.are_probabilities(np.array(values, np.float32)) is are
