"""The model file: what Keras would write, byte for byte; and anybody's file read as data."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from cnn import archive
from cnn.archive import Adam, CosineDecay
from cnn.errors import AGAIN
from cnn.files import CURE
from cnn.network import Network, network_of
from cnn.runtime import keras

MNIST = (28, 28, 1)
ANOTHER = "; choose another, or run 'dvc repro' for one that fits"
UNKNOWN = "; only the layers of cnn/network.py are computed without Keras"
NO_MODEL = "its config.json is not that of a Keras model"
COSINE = CosineDecay(0.0001, 80, 0.05, 0.002, 20)
# Settings that are null in Keras 3.15 and unknown to older versions.
NEW = {"input_axes", "output_axes", "quantization_config"}
NETWORKS = {
    "usual": network_of((4, 8), 3, (16,), 0.0, MNIST, 10),
    "dropout": network_of((4, 8), 3, (16,), 0.25, MNIST, 10),
    "padded colours": network_of((4, 5), 5, (7,), 0.0, (8, 8, 3), 2),
    "deep": network_of((2, 3, 4, 5), 2, (9, 8, 7), 0.5, (33, 30, 1), 26),
    "shallow": network_of((6,), 1, (), 0.0, (9, 12, 2), 3),
}


def drawn(network: Network) -> list[np.ndarray]:
    rng = np.random.default_rng(len(network.filters))
    return [rng.normal(size=shape).astype(np.float32) for shape in network.shapes()]


def adam_of(weights: list[np.ndarray], averaging: float = 0.0, rate=COSINE) -> Adam:
    slots = [[number * array for array in weights] for number in (2, 3, 4)]
    return Adam(rate, 0.9, 0.999, 0.0, averaging, 7, *slots[:2], slots[2] if averaging else [])


def written(path: Path, network: Network = NETWORKS["usual"], **settings) -> Path:
    weights = drawn(network)
    archive.write(path, network, weights, adam_of(weights, **settings))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A file that is as it should be."""
    return written(tmp_path_factory.mktemp("whole") / "cnn.keras")


@pytest.fixture
def refused(refusal):
    """Return why a file is refused, without its name and without what to do about it."""

    def call(path: Path, image_shape=MNIST, classes=10) -> str:
        message = refusal(archive.read, path, image_shape, classes)
        assert message.startswith(f"{path}: ")
        assert len(message) < 500 + len(str(path))
        assert message.endswith((ANOTHER, CURE, AGAIN, "run 'make repro'"))
        return message.removeprefix(f"{path}: ").removesuffix(ANOTHER).removesuffix(UNKNOWN)

    return call


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewritten(source: Path, path: Path, config=None, weights=None) -> Path:
    """Write a model with another config.json or other weights."""
    parts = parts_of(source)
    parts["config.json"] = parts["config.json"] if config is None else config
    parts["model.weights.h5"] = parts["model.weights.h5"] if weights is None else weights
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return path


def changed(source: Path, path: Path, change) -> Path:
    """Write a model whose config.json `change` altered: it is given the layers or the document."""
    document = json.loads(parts_of(source)["config.json"])
    change(document["config"]["layers"])
    return rewritten(source, path, config=json.dumps(document).encode())


def restored(source: Path, path: Path, change) -> Path:
    """Write a model whose HDF5 file `change` altered."""
    stream = io.BytesIO(parts_of(source)["model.weights.h5"])
    with h5py.File(stream, "r+") as file:
        change(file)
    return rewritten(source, path, weights=stream.getvalue())


# What is written


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_what_is_written_is_read(tmp_path, name, averaging):
    network = NETWORKS[name]
    path = written(tmp_path / "cnn.keras", network, averaging=averaging, rate=0.002)

    for asked in ((network.image_shape, network.classes), (None, None)):
        model = archive.read(path, *asked)
        assert model.network == network
        for array, expected in zip(model.weights, drawn(network), strict=True):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, expected)


def test_the_same_model_gives_the_same_bytes_in_any_process(tmp_path, whole):
    code = (
        "import sys; from pathlib import Path; from tests.test_archive import written;"
        "written(Path(sys.argv[1])); assert not {'tensorflow', 'keras'} & {*sys.modules}"
    )
    path = tmp_path / "other.keras"
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)

    assert path.read_bytes() == whole.read_bytes()
    different = written(tmp_path / "different.keras", rate=0.1)
    assert different.read_bytes() != whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["different.keras", "other.keras"]


def test_the_file_is_whole_and_carries_no_time(whole):
    with zipfile.ZipFile(whole) as file:
        assert file.testzip() is None
        assert file.namelist() == ["config.json", "metadata.json", "model.weights.h5"]
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b'"date_saved": "1980-01-01@00:00:00"' in file.read("metadata.json")
        stored = io.BytesIO(file.read("model.weights.h5"))
    with h5py.File(stored) as file:
        times = []
        file.visititems(lambda _, item: times.append(h5py.h5g.get_objinfo(item.id).mtime))
    assert times
    assert set(times) == {0}


def test_the_headers_are_the_plainest_that_a_zip_can_have(whole):
    """Those of sizes that are known: where they are not, Python 3.11.2 and 3.11.7 differ."""
    data = whole.read_bytes()
    expected, start = b"", 0
    for name, content in parts_of(whole).items():
        crc, size = zlib.crc32(content), len(content)
        fixed = (20, 0, 0, 0, 0x21, crc, size, size, len(name), 0)
        local = struct.pack("<4s5H3L2H", b"PK\3\4", *fixed) + name.encode()
        assert data[start : start + len(local) + size] == local + content
        more = (0, 0, 0, 0o600 << 16, start)
        expected += struct.pack("<4s2B5H3L5H2L", b"PK\1\2", 20, 3, *fixed, *more) + name.encode()
        start += len(local) + size
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(expected), start, 0)
    assert data[start:] == expected + end


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)

    with pytest.raises(OSError):
        written(tmp_path / "cnn.keras")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.__setitem__(1, arrays[1].astype(np.float64)),
        lambda arrays: arrays.__setitem__(0, arrays[0][:2]),
        lambda arrays: arrays.pop(),
    ],
    ids=["dtype", "shape", "number"],
)
def test_arrays_that_are_not_the_networks_are_not_written(tmp_path, spoil):
    network, weights = NETWORKS["usual"], drawn(NETWORKS["usual"])
    adam = adam_of(weights)
    spoil(adam.velocities)

    with pytest.raises(ValueError):
        archive.write(tmp_path / "cnn.keras", network, weights, adam)
    spoil(weights)
    with pytest.raises(ValueError):
        archive.write(tmp_path / "cnn.keras", network, weights, adam_of(drawn(network)))
    assert list(tmp_path.iterdir()) == []


# Keras as the oracle


def by_keras(network: Network, averaging=0.0, rate=COSINE, weight_decay=0.0):
    """Build and compile with Keras what `archive.write` describes."""
    layers = keras.layers
    names = iter(network.weighted())
    stack = [keras.Input(network.image_shape, name="images")]
    for number, filters in enumerate(network.filters, 1):
        settings = {"padding": network.padding, "activation": "relu", "dtype": "float32"}
        stack += [
            layers.Conv2D(filters, network.kernel_size, name=next(names), **settings),
            layers.MaxPooling2D(2, name=f"pooling_{number}", dtype="float32"),
        ]
    stack.append(layers.Flatten(name="flatten", dtype="float32"))
    if network.dropout:
        stack.append(layers.Dropout(network.dropout, name="dropout", dtype="float32"))
    for units in network.dense_units:
        stack.append(layers.Dense(units, activation="relu", name=next(names), dtype="float32"))
    last = {"activation": "softmax", "dtype": "float32", "name": next(names)}
    model = keras.Sequential([*stack, layers.Dense(network.classes, **last)], name="cnn")
    if isinstance(rate, CosineDecay):
        rate = keras.optimizers.schedules.CosineDecay(**rate._asdict())
    optimizer = keras.optimizers.Adam(
        rate,
        beta_1=0.8,
        beta_2=0.99,
        weight_decay=weight_decay or None,
        use_ema=averaging > 0,
        ema_momentum=averaging,
        name="adam",
    )
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(optimizer, loss=loss, metrics=["accuracy"])
    return model


def state_of(model, rate, averaging: float, weight_decay: float) -> Adam:
    """Return the optimizer of a Keras model as `archive.write` takes it."""
    weights = len(model.get_weights())
    values = [variable.numpy() for variable in model.optimizer.variables]
    steps, *values = values if isinstance(rate, CosineDecay) else [values[0], *values[2:]]
    averages, slots = (values[:weights], values[weights:]) if averaging else ([], values)
    state = int(steps), slots[::2], slots[1::2], averages
    return Adam(rate, 0.8, 0.99, weight_decay, averaging, *state)


def examples(network: Network) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    images = rng.random((16, *network.image_shape), np.float32)
    return images, rng.integers(network.classes, size=16)


def without(node: object) -> object:
    """Return a JSON document without the settings in NEW, which must be null."""
    if isinstance(node, list):
        return [without(item) for item in node]
    if not isinstance(node, dict):
        return node
    assert all(node[key] is None for key in NEW & node.keys())
    return {key: without(value) for key, value in node.items() if key not in NEW}


ORACLES = {
    "usual": ("usual", {}),
    "constant": ("usual", {"rate": 0.002}),
    "no warm-up": ("usual", {"rate": CosineDecay(0.002, 100, 0.0, None, 0)}),
    "everything": ("dropout", {"rate": 0.003, "averaging": 0.9, "weight_decay": 0.01}),
    "padded colours": ("padded colours", {"averaging": 0.5}),
    "deep": ("deep", {}),
    "shallow": ("shallow", {"rate": 0.1}),
}


@pytest.mark.parametrize("name", ORACLES)
def test_the_file_is_the_one_that_keras_writes(tmp_path, tf, name):
    network, settings = NETWORKS[ORACLES[name][0]], ORACLES[name][1]
    settings = {"rate": COSINE, "averaging": 0.0, "weight_decay": 0.0} | settings
    model = by_keras(network, **settings)
    model.fit(*examples(network), batch_size=8, verbose=0)
    model.save(tmp_path / "theirs.keras")

    adam = state_of(model, **settings)
    archive.write(tmp_path / "ours.keras", network, model.get_weights(), adam)

    ours, theirs = (parts_of(tmp_path / f"{name}.keras") for name in ("ours", "theirs"))
    expected = without(json.loads(theirs["config.json"]))
    assert json.loads(ours["config.json"]) == expected
    assert ours["config.json"] == json.dumps(expected).encode()  # with the keys in their order
    assert ours["model.weights.h5"] == theirs["model.weights.h5"]
    version = json.loads(theirs["metadata.json"])["keras_version"]
    assert json.loads(ours["metadata.json"])["keras_version"] == version


@pytest.mark.parametrize("name", ["usual", "padded colours", "shallow"])
def test_keras_goes_on_with_the_training_as_if_it_had_not_been_saved(tmp_path, tf, name):
    network, settings = NETWORKS[ORACLES[name][0]], ORACLES[name][1]
    settings = {"rate": COSINE, "averaging": 0.0, "weight_decay": 0.0} | settings
    images, labels = examples(network)
    model = by_keras(network, **settings)
    model.fit(images, labels, batch_size=8, verbose=0)
    adam = state_of(model, **settings)
    archive.write(tmp_path / "ours.keras", network, model.get_weights(), adam)

    loaded = keras.saving.load_model(tmp_path / "ours.keras")

    probabilities = loaded.predict(images, verbose=0)
    np.testing.assert_array_equal(probabilities, model.predict(images, verbose=0))
    assert archive.are_probabilities(probabilities)
    assert loaded.evaluate(images, labels, verbose=0) == model.evaluate(images, labels, verbose=0)
    for each in (model, loaded):
        each.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert int(loaded.optimizer.iterations) == adam.iterations + 4
    variables = zip(
        [*loaded.variables, *loaded.optimizer.variables],
        [*model.variables, *model.optimizer.variables],
        strict=True,
    )
    for ours, theirs in variables:
        np.testing.assert_array_equal(ours, theirs, err_msg=theirs.path)
    loaded.save(tmp_path / "further.keras")
    further = archive.read(tmp_path / "further.keras", network.image_shape, network.classes)
    assert further.network == network
    for ours, theirs in zip(further.weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def chain(*layers):
    """Return the layers as a Functional model."""
    last = first = keras.Input(MNIST)
    for layer in layers:
        last = layer(last)
    return keras.Model(first, last)


@pytest.mark.parametrize("optimizer", [None, "sgd", "adamw"])
@pytest.mark.parametrize("form", ["sequential", "late", "functional"])
def test_a_model_as_people_build_it_is_read(tmp_path, tf, form, optimizer):
    layers = keras.layers
    stack = [
        layers.Conv2D(4, (5, 5), activation=keras.activations.relu, padding="same"),
        layers.MaxPooling2D(),
        layers.Conv2D(6, 5, activation="relu", padding="same", kernel_regularizer="l2"),
        layers.MaxPooling2D((2, 2)),
        layers.Flatten(),
        layers.Dropout(0.25, seed=1),
        layers.Dense(9, activation="relu", kernel_initializer="he_normal"),
        layers.Dense(8, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
    if form == "functional":
        model = chain(*stack)
    else:
        model = keras.Sequential([*([keras.Input(MNIST)] if form == "sequential" else []), *stack])
        model(np.zeros((1, *MNIST), np.float32))
    if optimizer:
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(*examples(NETWORKS["usual"]), verbose=0)
    path = tmp_path / "their own.keras"
    model.save(path)

    found = archive.read(path, MNIST, 10)

    assert found.network == Network(MNIST, (4, 6), 5, "same", (9, 8), 0.25, 10)
    for ours, theirs in zip(found.weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_functional_models_that_branch_are_refused(tmp_path, tf, refused):
    layers = keras.layers
    first = keras.Input(MNIST)
    pooled = layers.MaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(first))
    flat = layers.Flatten()(pooled)
    once = layers.Dense(10, activation="relu")(flat)
    aside = layers.Dense(10, activation="softmax")(flat)
    models = {
        "aside": keras.Model(first, aside),
        "branch": keras.Model(first, [once, aside]),
        "active": keras.Model(
            first,
            layers.Dense(10, activation="softmax")(layers.Dropout(0.5)(flat, training=True)),
        ),
    }
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")

    assert archive.read(tmp_path / "aside.keras").network.classes == 10
    for name in ("branch", "active"):
        assert refused(tmp_path / f"{name}.keras") == "its layers do not follow one another"


# What is read


def test_a_file_as_keras_3_0_wrote_it_is_read(tmp_path, whole):
    """It named modules in full, dtypes by their name alone, and knew fewer settings."""

    def age(layers):
        for layer in layers:
            layer["module"] = f"keras.src.layers.core.{layer['class_name'].lower()}"
            layer["registered_name"] = layer["class_name"]
            layer["config"]["dtype"] = "float32"
            for key in ("ragged", "optional"):
                layer["config"].pop(key, None)

    assert archive.read(changed(whole, tmp_path / "m.keras", age)).network == NETWORKS["usual"]


def test_a_newer_keras_may_add_settings_that_are_off(tmp_path, whole):
    def add(layers):
        layers[1]["config"].update(novelty=None, input_initializer={"module": "keras"})
        layers[-1]["config"].update(other=False)
        layers[-1]["build_config"]["input_shape"] = [None, 10**10]  # which is not looked at

    assert archive.read(changed(whole, tmp_path / "m.keras", add)).network == NETWORKS["usual"]


def sets(number: int, **settings):
    """Return a change of the settings of a layer, counted as they stand in config.json."""
    return lambda layers: layers[number]["config"].update(settings)


FIRST, LAST = "its layer convolution_1 has the setting", "its layer probabilities has the setting"
FOREIGN = {
    "a Lambda": (
        lambda layers: layers[2].update(class_name="Lambda"),
        "its layer pooling_1 is a keras.layers.Lambda",
    ),
    "a layer of another module": (
        lambda layers: layers[2].update(module="os"),
        "its layer pooling_1 is a os.MaxPooling2D",
    ),
    "a layer whose name is a line break": (
        lambda layers: layers[2].update(class_name="A\nB"),
        "its layer pooling_1 is a keras.layers.A\\nB",
    ),
    "a layer with a long name": (
        lambda layers: layers[2].update(class_name="A" * 100_000),
        f"its layer pooling_1 is a keras.layers.{'A' * 16} ... {'A' * 29}",
    ),
    "a batch normalization": (
        lambda layers: layers[2].update(class_name="BatchNormalization"),
        "its layer pooling_1 is a keras.layers.BatchNormalization",
    ),
    "no pooling": (
        lambda layers: layers.pop(2),
        "its layers are InputLayer, Conv2D, Conv2D, MaxPooling2D, Flatten, Dense, Dense",
    ),
    "no layer": (lambda layers: layers.clear(), "its layers are "),
    "seven convolutions": (
        lambda layers: layers.__setitem__(slice(1, 3), layers[1:3] * 6),
        f"its layers are InputLayer, {'Conv2D, MaxPooling2D, ' * 7}Flatten, Dense, Dense",
    ),
    "four hidden layers": (
        lambda layers: layers.extend(layers[-1:] * 3),
        "its layers are InputLayer, Conv2D, MaxPooling2D, Conv2D, MaxPooling2D, Flatten"
        + ", Dense" * 5,
    ),
    "1,000 layers": (lambda layers: layers.extend([layers[2]] * 1000), "its layers are InputLayer"),
    "a dilated window": (sets(1, dilation_rate=[2, 2]), f"{FIRST} dilation_rate [2, 2]"),
    "strides": (sets(1, strides=[2, 2]), f"{FIRST} strides [2, 2]"),
    "strides of 0": (sets(1, strides=[0, 0]), f"{FIRST} strides [0, 0]"),
    "groups": (sets(1, groups=2), f"{FIRST} groups 2"),
    "no bias": (sets(1, use_bias=False), f"{FIRST} use_bias False"),
    "channels first": (sets(1, data_format="channels_first"), f"{FIRST} data_format 'channels_fi"),
    "another activation": (sets(1, activation="gelu"), f"{FIRST} activation 'gelu'"),
    "an activation of one's own": (
        sets(1, activation={"module": "os", "class_name": "system"}),
        f"{FIRST} activation {{'module': 'os', 'class_name': 'system'}}",
    ),
    "half of the zeros": (sets(1, padding="causal"), f"{FIRST} padding 'causal'"),
    "another padding": (
        sets(3, padding="same"),
        "its layer convolution_2 has the setting padding 'same'",
    ),
    "a kernel of 7": (sets(1, kernel_size=[7, 7]), f"{FIRST} kernel_size [7, 7]"),
    "a kernel of 0": (sets(1, kernel_size=[0, 0]), f"{FIRST} kernel_size [0, 0]"),
    "a kernel that is no square": (sets(1, kernel_size=[3, 1]), f"{FIRST} kernel_size [3, 1]"),
    "kernels of two sizes": (
        sets(3, kernel_size=[5, 5]),
        "its layer convolution_2 has the setting kernel_size [5, 5]",
    ),
    "ten million filters": (sets(1, filters=10**7), f"{FIRST} filters 10000000"),
    "no filters": (sets(1, filters=0), f"{FIRST} filters 0"),
    "a filter that is a truth": (sets(1, filters=True), f"{FIRST} filters True"),
    "a large window": (
        sets(2, pool_size=[3, 3]),
        "its layer pooling_1 has the setting pool_size [3, 3]",
    ),
    "a padded window": (
        sets(2, padding="same"),
        "its layer pooling_1 has the setting padding 'same'",
    ),
    "2^31 hidden units": (
        sets(-2, units=2**31),
        "its layer dense has the setting units 2147483648",
    ),
    "a negative layer": (
        sets(-2, units=-(10**10)),
        "its layer dense has the setting units -10000000000",
    ),
    "a layer of 10^300": (sets(-2, units=10**300), "its layer dense has the setting units 1000"),
    "2^31 classes": (sets(-1, units=2**31), f"{LAST} units 2147483648"),
    "a layer of a text": (sets(-1, units="10"), f"{LAST} units '10'"),
    "a share of a layer": (sets(-1, units=10.0), f"{LAST} units 10.0"),
    "no softmax": (sets(-1, activation="linear"), f"{LAST} activation 'linear'"),
    "a quantized layer": (sets(-1, quantization_config={"a": 1}), f"{LAST} quantization_config {{"),
    "a novelty": (sets(-1, novelty=0.5), f"{LAST} novelty 0.5"),
    "a novelty with a line break": (sets(-1, **{"a\nb": 1}), f"{LAST} a\\nb 1"),
    "half precision": (
        sets(1, dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}}),
        "its layer convolution_1 has the dtype 'mixed_bfloat16'",
    ),
    "half precision by name": (
        sets(1, dtype="float16"),
        "its layer convolution_1 has the dtype 'float16'",
    ),
    "whole numbers": (sets(0, dtype="uint8"), "its layer images has the dtype 'uint8'"),
    "a sparse input": (sets(0, sparse=True), "its layer images has the setting sparse True"),
    "a flat input": (
        sets(0, batch_shape=[None, 784]),
        "its layer images has the setting batch_shape [None, 784]",
    ),
    "images of any size": (
        sets(0, batch_shape=[None, None, None, 1]),
        "its layer images has the setting batch_shape [None, None, None, 1]",
    ),
    "images of 10^12 pixels": (
        sets(0, batch_shape=[None, 10**6, 10**6, 1]),
        "its layer images has the setting batch_shape [None, 1000000, 1000000, 1]",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_layers_that_are_not_known_here_are_refused(whole, tmp_path, refused, name):
    change, cause = FOREIGN[name]
    path = changed(whole, tmp_path / "m.keras", change)

    assert refused(path).startswith(cause)
    with pytest.raises(archive.OtherNetworkError, match=UNKNOWN):
        archive.read(path)


@pytest.mark.parametrize("rate", [1, -0.1, float("nan"), "0.5", None, True])
def test_a_share_of_dropout_that_is_none_is_refused(tmp_path, refused, rate):
    source = written(tmp_path / "cnn.keras", NETWORKS["dropout"])

    message = refused(changed(source, tmp_path / "m.keras", sets(6, rate=rate)))

    assert message == f"its layer dropout has the setting rate {rate!r}"


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers.append("text"),
        lambda layers: layers[1].pop("config"),
        lambda layers: layers[1].update(class_name=["Conv2D"]),
        lambda layers: layers[1].update(module=None),
        lambda layers: layers[1].update(config=[]),
        sets(1, dtype={}),
    ],
)
def test_layers_that_are_none_are_refused(whole, tmp_path, refused, change):
    assert refused(changed(whole, tmp_path / "m.keras", change)) == NO_MODEL


@pytest.mark.parametrize(
    "config",
    [b"", b"{", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000]
    + [b'{"config": {"layers": [{"class_name": "InputLayer", "config": {}}]}}']
    + [b'{"class_name": ' + b"1" * 100_000 + b"}"],
    ids=["none", "half", "object", "list", "null", "bytes", "brackets", "braces", "layer", "1s"],
)
def test_another_config_is_refused(whole, tmp_path, refused, config):
    assert refused(rewritten(whole, tmp_path / "m.keras", config=config)) == NO_MODEL


def test_another_kind_of_model_is_refused(whole, tmp_path, refused):
    for module, kind in (("os", "system"), ("mine", "Sequential"), ("keras", "Model")):
        document = {"module": module, "class_name": kind, "config": {"layers": []}}
        path = rewritten(whole, tmp_path / "m.keras", config=json.dumps(document).encode())
        assert refused(path) == f"its model is a {module}.{kind}"


def test_a_model_in_half_precision_is_refused(whole, tmp_path, refused):
    document = json.loads(parts_of(whole)["config.json"])
    document["config"]["dtype"] = "bfloat16"
    path = rewritten(whole, tmp_path / "m.keras", config=json.dumps(document).encode())

    assert refused(path) == "its model has the dtype 'bfloat16'"


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


def test_a_description_too_long_is_refused(whole, tmp_path, refused):
    path = rewritten(whole, tmp_path / "m.keras", config=b" " * 30_000_000)

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

    assert refused(path) == "it does not hold exactly config.json, metadata.json, model.weights.h5"


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, whole, refused, share):
    path = tmp_path / "cnn.keras"
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    message = refused(path)

    assert message.startswith("is damaged or no .keras file (")
    assert message.endswith(f"; {CURE}")


def test_a_flipped_byte_is_refused_wherever_it_tells(tmp_path, whole, refused):
    path = tmp_path / "cnn.keras"
    content, expected = whole.read_bytes(), drawn(NETWORKS["usual"])
    with zipfile.ZipFile(whole) as file:
        directory = file.start_dir
    rng = np.random.default_rng(0)
    places = [*rng.integers(len(content), size=100), *range(directory, len(content))]
    for place in places:
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        try:
            model = archive.read(path, MNIST, 10)
        except archive.UserError:
            assert refused(path)
        else:  # such as a date
            assert all((a == b).all() for a, b in zip(model.weights, expected, strict=True))
    spoiled = bytearray(content)
    spoiled[len(content) // 2] ^= 1  # among the weights: still a number
    path.write_bytes(spoiled)

    assert "Bad CRC-32 for file 'model.weights.h5'" in refused(path)


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path, refused):
    assert refused(tmp_path / "cnn.keras") == "is missing; run 'make repro'"


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.keras")

    assert refused(tmp_path / "pipe.keras") == "not a regular file"
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize(
    ("image_shape", "classes", "reason"),
    [
        ((28, 28, 3), 10, "its input is [28, 28, 1], not [28, 28, 3]"),
        ((32, 28, 1), 10, "its input is [28, 28, 1], not [32, 28, 1]"),
        ((28, 28, 1), 26, "its output is [10], not [26]"),
    ],
    ids=["colour", "size", "classes"],
)
def test_a_model_of_another_form_is_refused(whole, refused, image_shape, classes, reason):
    assert refused(whole, image_shape, classes) == reason


def test_poolings_that_leave_nothing_are_refused(whole, tmp_path, refused):
    path = changed(whole, tmp_path / "m.keras", sets(0, batch_shape=[None, 9, 40, 1]))

    assert refused(path, (9, 40, 1)) == "its poolings leave nothing of its images"


# The arrays in model.weights.h5

KERNEL, BIAS = "layers/conv2d/vars/0", "layers/conv2d/vars/1"
ZEROS = np.zeros((3, 3, 1, 4), np.float32)


def linked(link):
    def change(file: h5py.File) -> None:
        file.move(KERNEL, "elsewhere")
        file[KERNEL] = link

    return change


def virtual(file: h5py.File) -> None:
    del file[KERNEL]
    layout = h5py.VirtualLayout(ZEROS.shape, np.float32)
    layout[...] = h5py.VirtualSource("/etc/other.h5", "array", ZEROS.shape)
    file.create_virtual_dataset(KERNEL, layout)


def behind_a_link(file: h5py.File) -> None:
    file.move("layers/conv2d", "elsewhere")
    file["layers/conv2d"] = h5py.ExternalLink("/etc/other.h5", "/elsewhere")


def replaced(array=ZEROS, **options):
    def change(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, data=array, **options)

    return change


def unwritten(**options):
    def change(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, ZEROS.shape, np.float32, **options)

    return change


def one_is(value: float):
    def change(file: h5py.File) -> None:
        file[BIAS][2] = value

    return change


IN_PIECES = "has weights that are not stored in one piece, as Keras does it"
STORED = {
    "a soft link": (linked(h5py.SoftLink("/elsewhere")), "has weights behind a link, which Keras"),
    "an external link": (
        linked(h5py.ExternalLink("/etc/other.h5", "/elsewhere")),
        "has weights behind a link, which Keras never writes",
    ),
    "a group behind a link": (behind_a_link, "has weights behind a link, which Keras never writes"),
    "a virtual dataset": (virtual, IN_PIECES),
    "bytes of another file": (unwritten(external=[("/etc/passwd", 0, ZEROS.nbytes)]), IN_PIECES),
    "pieces": (replaced(chunks=True), IN_PIECES),
    "compressed pieces": (replaced(compression="gzip"), IN_PIECES),
    "checksums": (replaced(fletcher32=True), IN_PIECES),
    "no bytes": (unwritten(), "has weights that were never written"),
    "float64": (
        replaced(ZEROS.astype(float)),
        "has weights float64 (3, 3, 1, 4), not float32 (3, 3, 1, 4)",
    ),
    "float16": (
        replaced(ZEROS.astype(np.float16)),
        "has weights float16 (3, 3, 1, 4), not float32 (3, 3, 1, 4)",
    ),
    "int32": (
        replaced(ZEROS.astype(np.int32)),
        "has weights int32 (3, 3, 1, 4), not float32 (3, 3, 1, 4)",
    ),
    "big-endian": (
        replaced(ZEROS.astype(">f4")),
        "has weights >f4 (3, 3, 1, 4), not float32 (3, 3, 1, 4)",
    ),
    "a text": (replaced("text"), "has weights object (), not float32 (3, 3, 1, 4)"),
    "another shape": (
        replaced(ZEROS.reshape(9, 4)),
        "has weights float32 (9, 4), not float32 (3, 3, 1, 4)",
    ),
    "more filters": (
        replaced(np.repeat(ZEROS, 2, -1)),
        "has weights float32 (3, 3, 1, 8), not float32 (3, 3, 1, 4)",
    ),
    "no array": (
        lambda file: file.__delitem__(KERNEL),
        f"has no weights: its model.weights.h5 lacks {KERNEL}",
    ),
    "no layer": (
        lambda file: file.__delitem__("layers/conv2d"),
        f"has no weights: its model.weights.h5 lacks {KERNEL}",
    ),
    "a group for an array": (
        lambda file: (file.__delitem__(KERNEL), file.create_group(KERNEL)),
        f"has no weights: its model.weights.h5 has no array {KERNEL}",
    ),
    "an array for a group": (
        lambda file: (file.__delitem__("layers/conv2d"), file.create_dataset("layers/conv2d", ())),
        f"has no weights: its model.weights.h5 lacks {KERNEL}",
    ),
    "NaN": (one_is(np.nan), "has weights that are not finite"),
    "infinity": (one_is(np.inf), "has weights that are not finite"),
    "minus infinity": (one_is(-np.inf), "has weights that are not finite"),
}


@pytest.mark.parametrize("name", STORED)
def test_weights_that_are_not_what_they_should_be_are_refused(whole, tmp_path, refused, name):
    change, cause = STORED[name]

    message = refused(restored(whole, tmp_path / "m.keras", change))

    assert message.startswith(f"its layer convolution_1 {cause}")


def test_weights_are_refused_by_the_name_that_the_layer_has_in_the_file(whole, tmp_path, refused):
    renamed = changed(whole, tmp_path / "a.keras", sets(-2, name="hidden\nlayer"))
    path = restored(renamed, tmp_path / "m.keras", lambda file: file.__delitem__("layers/dense"))

    assert refused(path).startswith("its layer hidden\\nlayer has no weights")


def test_no_other_file_is_opened(whole, tmp_path, refused):
    """The other file is there, and would do."""
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["array"] = ZEROS
    (tmp_path / "raw").write_bytes(ZEROS.tobytes())

    def link(file: h5py.File) -> None:
        del file[KERNEL]
        file[KERNEL] = h5py.ExternalLink(str(other), "/array")

    def map_in(file: h5py.File) -> None:
        del file[KERNEL]
        layout = h5py.VirtualLayout(ZEROS.shape, np.float32)
        layout[...] = h5py.VirtualSource(str(other), "array", ZEROS.shape)
        file.create_virtual_dataset(KERNEL, layout)

    raw = unwritten(external=[(str(tmp_path / "raw"), 0, ZEROS.nbytes)])
    files = [other, tmp_path / "raw"]
    for file in files:
        os.utime(file, ns=(0, 10**18))  # so that a reading would show
    for change in (link, map_in, raw):
        refused(restored(whole, tmp_path / "m.keras", change))
    assert [os.stat(file).st_atime_ns for file in files] == [0, 0]


def test_weights_in_a_damaged_h5_are_refused(whole, tmp_path, refused):
    stored = parts_of(whole)["model.weights.h5"]
    rng = np.random.default_rng(0)

    short = rewritten(whole, tmp_path / "m.keras", weights=stored[: len(stored) * 9 // 10])
    assert refused(short).startswith("is damaged or no .keras file (")
    nothing = rewritten(whole, tmp_path / "m.keras", weights=b"none" * 10_000)
    assert refused(nothing).startswith("is damaged or no .keras file (")
    for place in rng.integers(10_000, size=300):  # where its tables are
        spoiled = bytearray(stored)
        spoiled[place] ^= 1 << int(rng.integers(8))
        path = rewritten(whole, tmp_path / "m.keras", weights=bytes(spoiled))
        try:
            archive.read(path, MNIST, 10)
        except archive.UserError:
            assert refused(path)


@pytest.mark.parametrize("stored", [b"", bytes(3000)])
def test_fewer_weights_than_the_layers_need_are_refused(whole, tmp_path, refused, stored):
    path = rewritten(whole, tmp_path / "m.keras", weights=stored)

    needed = 4 * sum(array.size for array in drawn(NETWORKS["usual"]))
    assert refused(path) == (
        f"its weights need {needed:,} bytes; its model.weights.h5 has {len(stored):,}"
    )


def test_layers_of_gigabytes_are_refused_before_memory_is_taken(whole, tmp_path, refused):
    def widen(layers):
        layers[0]["config"]["batch_shape"] = [None, 4000, 4000, 1]
        layers[1]["config"]["filters"] = layers[3]["config"]["filters"] = 1024
        layers[-2]["config"]["units"] = 4096

    path = changed(whole, tmp_path / "m.keras", widen)

    assert refused(path, None).startswith("its weights need 16,7")


def test_arrays_that_nobody_asks_for_are_not_read(whole, tmp_path):
    def add(file: h5py.File) -> None:
        file.create_dataset("layers/dense/vars/2", (30_000, 30_000), "f4", compression="gzip")
        file["more"] = h5py.ExternalLink("/etc/other.h5", "/")

    path = restored(whole, tmp_path / "m.keras", add)

    assert archive.read(path, MNIST, 10).network == NETWORKS["usual"]


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
