"""The model file: what Keras would write, byte for byte; and anybody's file read as data."""

import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from cnn.base.errors import AGAIN, UserError
from cnn.base.files import REPAIR
from cnn.model import archive
from cnn.model.archive import Adam, CosineDecay
from cnn.model.network import Network, network_of
from tests.helpers import model_files
from tests.helpers.late import keras
from tests.helpers.model_files import COSINE, HOSTILE, MNIST, USUAL, adam_of, drawn, written

ANOTHER = "; choose another, or run 'dvc repro' for one that fits"
UNKNOWN = "; only the layers of cnn/model/network.py are computed without Keras"
# Settings that are null in Keras 3.15 and unknown to older versions.
NEW = {"input_axes", "output_axes", "quantization_config"}
NETWORKS = {
    "usual": USUAL,
    "dropout": USUAL._replace(dropout=0.25),
    "padded colours": network_of((4, 5), 5, (7,), 0.0, (8, 8, 3), 2),
    "deep": network_of((2, 3, 4, 5), 2, (9, 8, 7), 0.5, (33, 30, 1), 26),
    "shallow": network_of((6,), 1, (), 0.0, (9, 12, 3), 3),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The bytes of a file that is as it should be."""
    return written(tmp_path_factory.mktemp("whole") / "cnn.keras").read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cnn.keras"


@pytest.fixture
def refused(refusal, path):
    """Return why bytes, or what is at `path`, are refused, without the name and what to do."""

    def call(content: bytes | None = None, image_shape=None, classes=None) -> str:
        if content is not None:
            path.write_bytes(content)
        message = refusal(archive.read, path, image_shape, classes)
        assert message.startswith(f"{path}: ")
        assert len(message) < 500 + len(str(path))
        assert message.endswith((ANOTHER, REPAIR, AGAIN, "run 'make repro'"))
        return message.removeprefix(f"{path}: ").removesuffix(ANOTHER).removesuffix(UNKNOWN)

    return call


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---- What is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_written_is_read(path, name, averaging):
    network = NETWORKS[name]
    written(path, network, averaging=averaging, rate=0.002)

    for form in ((network.image_shape, network.classes), (None, None)):
        model = archive.read(path, *form)
        assert model.network == network
        assert {array.dtype for array in model.weights} == {np.dtype(np.float32)}
        assert_same(model.weights, drawn(network))


def test_the_same_model_gives_the_same_bytes_in_any_process(tmp_path, path, whole):
    code = (
        "import sys; from pathlib import Path; from tests.helpers.model_files import written;"
        "written(Path(sys.argv[1])); assert not {'tensorflow', 'keras', 'PIL'} & {*sys.modules}"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)

    assert path.read_bytes() == whole
    assert written(tmp_path / "different.keras", rate=0.1).read_bytes() != whole


def test_the_headers_are_the_plainest_that_a_zip_can_have(whole):
    """Those of sizes that are known: where they are not, Python 3.11.2 and 3.11.7 differ."""
    expected, start = b"", 0
    for name, content in model_files.members(whole).items():
        crc, size = zlib.crc32(content), len(content)
        fixed = (20, 0, 0, 0, 0x21, crc, size, size, len(name), 0)  # 0x21: 1 January 1980
        local = struct.pack("<4s5H3L2H", b"PK\3\4", *fixed) + name.encode()
        assert whole[start : start + len(local) + size] == local + content
        more = (0, 0, 0, 0o600 << 16, start)
        expected += struct.pack("<4s2B5H3L5H2L", b"PK\1\2", 20, 3, *fixed, *more) + name.encode()
        start += len(local) + size
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(expected), start, 0)
    assert whole[start:] == expected + end


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.__setitem__(1, arrays[1].astype(np.float64)),
        lambda arrays: arrays.__setitem__(0, arrays[0][:2]),
        lambda arrays: arrays.pop(),
    ],
    ids=["dtype", "shape", "number"],
)
@pytest.mark.parametrize("of", ["weights", "velocities"])
def test_arrays_that_are_not_the_networks_are_not_written(path, spoil, of):
    weights = drawn(USUAL)
    adam = adam_of(drawn(USUAL))
    spoil(weights if of == "weights" else adam.velocities)

    with pytest.raises(ValueError):
        archive.write(path, USUAL, weights, adam)
    assert not path.exists()


# ---- Keras as the oracle -------------------------------------------------------------------------

ORACLES = {
    "usual": {},
    "no warm-up": {"rate": CosineDecay(0.002, 100, 0.0, None, 0)},
    "dropout": {"rate": 0.003, "averaging": 0.9, "weight_decay": 0.01},
    "padded colours": {"averaging": 0.5},
    "deep": {},
    "shallow": {"rate": 0.1},
}


def built(network: Network, averaging: float, rate, weight_decay: float):
    """Build and compile with Keras what `archive.write` describes."""

    def layer(kind: str, name: str, *args: object, **settings: object):
        return getattr(keras.layers, kind)(*args, name=name, dtype="float32", **settings)

    stack, hidden = [keras.Input(network.image_shape, name="images")], network.dense_units
    conv = {"padding": network.padding, "activation": "relu"}
    for number, filters in enumerate(network.filters, 1):
        stack += [
            layer("Conv2D", f"convolution_{number}", filters, network.kernel_size, **conv),
            layer("MaxPooling2D", f"pooling_{number}", 2),
        ]
    stack.append(layer("Flatten", "flatten"))
    if network.dropout:
        stack.append(layer("Dropout", "dropout", network.dropout))
    for number, units in enumerate(hidden, 1):
        name = "dense" if len(hidden) == 1 else f"dense_{number}"
        stack.append(layer("Dense", name, units, activation="relu"))
    stack.append(layer("Dense", "probabilities", network.classes, activation="softmax"))
    model = keras.Sequential(stack, name="cnn")
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


def fit(model, images: np.ndarray, labels: np.ndarray, epochs: int = 1) -> None:
    """Train eagerly: it gives what a graph does, which takes seconds to make."""
    model.run_eagerly = True
    model.fit(images, labels, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    model.run_eagerly = False


@pytest.fixture(scope="module")
def pair(request, tmp_path_factory):
    """Train a model by Keras, and write it by Keras and by us."""
    settings = {"rate": COSINE, "averaging": 0.0, "weight_decay": 0.0} | ORACLES[request.param]
    network, rng = NETWORKS.get(request.param, USUAL), np.random.default_rng(3)
    images = rng.random((16, *network.image_shape), np.float32)
    labels = rng.integers(network.classes, size=16)
    model, folder = built(network, **settings), tmp_path_factory.mktemp("pair")
    fit(model, images, labels)
    model.save(folder / "theirs.keras")
    averaging, rate, weight_decay = (settings[k] for k in ("averaging", "rate", "weight_decay"))
    weights, values = model.get_weights(), [each.numpy() for each in model.optimizer.variables]
    steps, *values = values if isinstance(rate, CosineDecay) else [values[0], *values[2:]]
    n = len(weights) if averaging else 0
    slots = (values[n::2], values[n + 1 :: 2], values[:n])
    adam = Adam(rate, 0.8, 0.99, weight_decay, averaging, int(steps), *slots)
    archive.write(folder / "ours.keras", network, weights, adam)
    return network, model, images, labels, folder


def without_new(node: object) -> object:
    """Return a JSON document without the settings in NEW, which must be null."""
    if isinstance(node, list):
        return [without_new(item) for item in node]
    if not isinstance(node, dict):
        return node
    assert all(node[key] is None for key in NEW & node.keys())
    return {key: without_new(value) for key, value in node.items() if key not in NEW}


@pytest.mark.parametrize("pair", ORACLES, indirect=True)
def test_the_file_is_the_one_that_keras_writes(tf, pair):
    ours, theirs = (
        model_files.members((pair[-1] / f"{name}.keras").read_bytes())
        for name in ("ours", "theirs")
    )

    expected = json.dumps(without_new(json.loads(theirs["config.json"])))
    assert ours["config.json"].decode() == expected  # with the keys in their order
    assert ours["model.weights.h5"] == theirs["model.weights.h5"]
    metadata = json.loads(theirs["metadata.json"]) | {"date_saved": "1980-01-01@00:00:00"}
    assert json.loads(ours["metadata.json"]) == metadata


@pytest.mark.parametrize("pair", ["padded colours", "shallow"], indirect=True)
def test_keras_goes_on_with_the_training_as_if_it_had_not_been_saved(tf, pair):
    network, model, images, labels, folder = pair

    loaded = keras.saving.load_model(folder / "ours.keras")

    np.testing.assert_array_equal(loaded(images), model(images))
    for each in (model, loaded):
        fit(each, images, labels, epochs=2)
    assert int(loaded.optimizer.iterations) == 6
    assert_same(
        [*loaded.variables, *loaded.optimizer.variables],
        [*model.variables, *model.optimizer.variables],
    )
    loaded.save(folder / "further.keras")
    further = archive.read(folder / "further.keras", network.image_shape, network.classes)
    assert further.network == network
    assert_same(further.weights, model.get_weights())


@pytest.mark.parametrize(
    ("form", "optimizer"), [("sequential", None), ("late", "sgd"), ("functional", "adamw")]
)
def test_a_model_as_people_build_it_is_read(path, tf, form, optimizer):
    layers = keras.layers
    stack = [
        layers.Conv2D(4, (5, 5), activation=keras.activations.relu, padding="same"),
        layers.MaxPooling2D(),
        layers.Conv2D(6, 5, activation="relu", padding="same", kernel_regularizer="l2"),
        layers.MaxPooling2D((2, 2)),
        layers.Flatten(),
        layers.Dropout(0.25, seed=1),
        layers.Dropout(0),
        layers.Dense(9, activation="relu", kernel_initializer="he_normal"),
        layers.Dense(8, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
    if form == "functional":
        last = first = keras.Input(MNIST, batch_size=32)
        for layer in stack:
            last = layer(last)
        model = keras.Model(first, last)
    else:
        model = keras.Sequential([*([keras.Input(MNIST)] if form == "sequential" else []), *stack])
        model(np.zeros((1, *MNIST), np.float32))
    if optimizer:
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.optimizer.build(model.trainable_variables)
    model.save(path)

    found = archive.read(path, MNIST, 10)

    assert found.network == Network(MNIST, (4, 6), 5, "same", (9, 8), 0.25, 10)
    assert_same(found.weights, model.get_weights())


def test_functional_models_that_branch_are_refused(path, tf, refused):
    layers = keras.layers
    first = keras.Input(MNIST)
    pooled = layers.MaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(first))
    flat = layers.Flatten()(pooled)
    once = layers.Dense(10, activation="relu")(flat)
    aside = layers.Dense(10, activation="softmax")(flat)
    active = layers.Dense(10, activation="softmax")(layers.Dropout(0.5)(flat, training=True))

    for outputs in ([once, aside], active):
        keras.Model(first, outputs).save(path)
        assert refused() == "its layers do not follow one another"
    keras.Model(first, aside).save(path)
    assert archive.read(path).network.classes == 10


# ---- What is read --------------------------------------------------------------------------------


def older(layers: list[dict]) -> None:
    """Keras 3.0 named modules in full, dtypes by their name alone, and knew fewer settings."""
    for layer in layers:
        layer["module"] = f"keras.src.layers.core.{layer['class_name'].lower()}"
        layer["registered_name"] = layer["class_name"]
        layer["config"]["dtype"] = "float32"
        for key in ("ragged", "optional"):
            layer["config"].pop(key, None)


def newer(layers: list[dict]) -> None:
    """A newer Keras may add settings that are off; shapes in build_config are not looked at."""
    layers[1]["config"].update(novelty=None, input_initializer={"module": "keras"})
    layers[-1]["config"].update(other=False)
    layers[-1]["build_config"]["input_shape"] = [None, 10**10]


@pytest.mark.parametrize("change", [older, newer])
def test_a_file_of_another_version_is_read(path, whole, change):
    path.write_bytes(model_files.layers(change)(whole))

    assert archive.read(path).network == USUAL


def test_arrays_that_nobody_asks_for_are_not_read(path, whole):
    def add(file: h5py.File) -> None:
        file.create_dataset("layers/dense/vars/2", (30_000, 30_000), "f4", compression="gzip")
        file["more"] = h5py.ExternalLink("/etc/other.h5", "/")

    path.write_bytes(model_files.stored(add)(whole))

    assert archive.read(path).network == USUAL


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_not_as_it_should_be_is_refused_in_one_line(whole, refused, name):
    make, cause = HOSTILE[name]

    assert refused(make(whole)).startswith(cause)


def test_a_network_for_keras_alone_is_an_error_of_its_own(path, whole):
    """By which `evaluate` says which engine it takes."""
    path.write_bytes(model_files.setting(1, groups=2)(whole))

    with pytest.raises(archive.OtherNetworkError, match=UNKNOWN):
        archive.read(path)


@pytest.mark.parametrize("rate", [1, -0.1, float("nan"), "0.5", None, True])
def test_a_share_of_dropout_that_is_none_is_refused(path, refused, rate):
    right = written(path, NETWORKS["dropout"]).read_bytes()

    message = refused(model_files.setting(6, rate=rate)(right))

    assert message == f"its network has dropout {rate!r}, not 0 to below 1"


def test_weights_are_refused_by_the_name_that_the_layer_has_in_the_file(whole, refused):
    renamed = model_files.setting(-2, name="hidden\nlayer")(whole)

    message = refused(model_files.stored(lambda file: file.__delitem__("layers/dense"))(renamed))

    assert message.startswith("its layer hidden\\nlayer has no weights")


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


def test_what_is_no_file_is_refused_without_waiting_for_it(path, refused):
    assert refused() == "is missing; run 'make repro'"
    os.mkfifo(path)
    assert refused() == "not a regular file"
    path.unlink()
    path.mkdir()
    assert "directory" in refused()


def test_a_zip_bomb_is_refused_before_it_is_unfolded(path, refused, monkeypatch):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(2**20), zipfile.ZIP_DEFLATED)
        file.infolist()[-1].file_size = 600 * 2**20  # which is what a zip is asked for
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unfolded"))

    assert refused() == "its model.weights.h5 is compressed, which Keras never does"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(path, whole, refused):
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("config.json", "{}")

    assert refused() == model_files.EXACTLY


def test_a_file_that_is_cut_or_flipped_is_refused_wherever_it_matters(path, whole, refused):
    for share in (0.001, 0.3, 0.999):
        assert refused(whole[: int(len(whole) * share)]).endswith(f"; {REPAIR}")
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as file:
        directory = file.start_dir
    rng = np.random.default_rng(0)
    for place in [*rng.integers(len(whole), size=100), *range(directory, len(whole))]:
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        try:
            model = archive.read(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")
        else:  # such as a date
            assert_same(model.weights, drawn(USUAL))
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 1  # among the weights: still a number
    assert "Bad CRC-32 for file 'model.weights.h5'" in refused(bytes(spoiled))


def test_a_damaged_h5_with_right_checksums_is_refused_or_read(path, whole, refused):
    stored = model_files.members(whole)["model.weights.h5"]
    short = model_files.weights(stored[: len(stored) * 9 // 10])(whole)
    assert refused(short).startswith("is damaged or no .keras file (")
    rng = np.random.default_rng(0)
    for place in rng.integers(10_000, size=150):  # where its tables are
        spoiled = bytearray(stored)
        spoiled[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(model_files.weights(bytes(spoiled))(whole))
        try:
            archive.read(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")


def test_no_other_file_is_opened(tmp_path, whole, refused):
    """The other files are there, and would do."""
    zeros = np.zeros(model_files.SHAPE, np.float32)
    h5, raw = tmp_path / "other.h5", tmp_path / "raw"
    with h5py.File(h5, "w") as file:
        file["array"] = zeros
    raw.write_bytes(zeros.tobytes())
    for file in (h5, raw):
        os.utime(file, ns=(0, 10**18))  # so that a reading would show

    refused(model_files.link(h5py.ExternalLink(str(h5), "/array"))(whole))
    refused(model_files.virtual(str(h5))(whole))
    refused(model_files.dataset(external=[(str(raw), 0, zeros.nbytes)])(whole))

    assert [os.stat(file).st_atime_ns for file in (h5, raw)] == [0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.25, 0.75], [1, 0]], True),
        ([[0.5, 0.5], [0.5, np.nan]], False),
        ([[0.5, 0.5], [np.inf, 0]], False),
        ([[1.5, -0.5]], False),
        ([[0.6, 0.6]], False),
    ],
)
def test_probabilities_are_distinguished_from_other_numbers(values, expected):
    assert archive.are_probabilities(np.array(values, np.float32)) is expected
