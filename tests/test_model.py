"""The network has the seed's layers, and its file the same bytes on every run."""

import zipfile

import numpy as np
import pytest

from stages import model
from stages.dataset import load

SMALL = {"filters": (4, 8), "kernel_size": 3, "dense_units": 16, "dropout": 0.0}


@pytest.fixture
def images(prepared):
    return load(prepared / "test.npz")[0][:32]


@pytest.fixture
def compiled(tf):
    """Build a small network with its optimizer."""

    def call(seed: int = 1):
        import keras

        keras.utils.set_random_seed(seed)
        network = model.build(**SMALL)
        optimizer = keras.optimizers.Adam(name="adam")
        network.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        optimizer.build(network.trainable_variables)
        return network

    return call


def test_the_defaults_have_225034_parameters(tf, params):
    keys = ("filters", "kernel_size", "dense_units", "dropout")

    network = model.build(**{key: params["train"][key] for key in keys})

    assert network.count_params() == 225_034


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_pooling_before_relu_changes_no_bit_of_output_or_gradients(tf, images, precision):
    import keras

    keras.config.set_dtype_policy(precision)
    try:
        network = model.build((32, 64), 3, 128, 0.0)
    finally:
        keras.config.set_dtype_policy("float32")

    def of(call):
        @tf.function  # as the train stage runs it, with the kernels that a graph fuses
        def results():
            with tf.GradientTape() as tape:
                output = call(images)
                loss = tf.reduce_sum(output[:, 3])
            return output, *tape.gradient(loss, network.trainable_variables)

        return [value.numpy() for value in results()]

    ours = of(lambda batch: model.forward(network, batch))
    theirs = of(lambda batch: network(batch, training=True))

    assert np.abs(theirs[1]).max() > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_drops_in_training(tf, images):
    network = model.build((4, 8), 3, 16, dropout=0.5)

    first, second = (model.forward(network, images).numpy() for _ in range(2))

    assert not np.array_equal(first, second)


def test_the_layers_are_the_seven_of_the_seed_in_their_order(tf):
    network = model.build((32, 64), 3, 128, 0.0)

    assert [type(layer).__name__ for layer in network.layers] == [
        "Conv2D",
        "MaxPooling2D",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "Dense",
        "Dense",
    ]
    activations = [getattr(layer, "activation", None) for layer in network.layers]
    assert [function.__name__ for function in activations if function] == [
        "relu",
        "relu",
        "relu",
        "softmax",
    ]
    assert (network.input_shape, network.output_shape) == ((None, 28, 28, 1), (None, 10))


def test_dropout_stands_between_flatten_and_dense(tf):
    network = model.build((4, 8), 3, 16, 0.3)

    assert [layer.name for layer in network.layers[-4:-1]] == ["flatten", "dropout", "dense"]
    assert network.get_layer("dropout").rate == 0.3


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_the_smallest_and_the_largest_kernel_can_be_built(tf, kernel_size):
    network = model.build((1, 1), kernel_size, 1, 0.0)

    assert network.output_shape == (None, 10)


def test_the_same_model_gives_the_same_bytes_whatever_was_built_before(tmp_path, compiled):
    model.save(compiled(), tmp_path / "a.keras")
    compiled(seed=2)
    model.save(compiled(), tmp_path / "b.keras")
    model.save(compiled(seed=2), tmp_path / "c.keras")

    a, b, c = ((tmp_path / f"{name}.keras").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "b.keras", "c.keras"]


def test_the_file_carries_no_time(tmp_path, compiled):
    path = tmp_path / "cnn.keras"
    model.save(compiled(), path)

    with zipfile.ZipFile(path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert b'"date_saved": "1980-01-01@00:00:00"' in archive.read("metadata.json")


def test_shared_objects_stay_shared_under_new_numbers():
    config = {"a": {"shared_object_id": 140_000}, "b": [{"shared_object_id": 139_000}]}
    config |= {"c": {"shared_object_id": 140_000}, "d": {"shared_object_id": None}}

    assert model._renumber(config, {}) == {
        "a": {"shared_object_id": 1},
        "b": [{"shared_object_id": 2}],
        "c": {"shared_object_id": 1},
        "d": {"shared_object_id": None},
    }


def test_plain_keras_loads_the_trained_model_and_trains_it_further(prepared, trained, tf):
    import keras

    images, labels = load(prepared / "train.npz")
    network = keras.models.load_model(trained / "cnn.keras")
    steps = int(network.optimizer.iterations)
    before = network.get_weights()

    network.fit(images[:64], labels[:64], batch_size=32, verbose=0)

    assert steps == 15  # 450 images in batches of 32
    assert int(network.optimizer.iterations) == steps + 2
    assert any((a != b).any() for a, b in zip(before, network.get_weights(), strict=True))


def test_the_predictions_survive_the_file(tmp_path, compiled, images):
    network = compiled()
    path = tmp_path / "cnn.keras"
    model.save(network, path)

    loaded = model.load(path)

    np.testing.assert_array_equal(loaded(images), network(images))


def test_a_failing_save_leaves_nothing(tmp_path, compiled, monkeypatch):
    def fail(name, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "_canonical", fail)

    with pytest.raises(OSError):
        model.save(compiled(), tmp_path / "cnn.keras")

    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused(tmp_path, refusal):
    path = tmp_path / "cnn.keras"

    assert refusal(model.load, path).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, trained, refusal, share):
    path = tmp_path / "cnn.keras"
    content = (trained / "cnn.keras").read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    assert refusal(model.load, path).startswith(f"{path}: is no readable .keras file")


def test_a_flipped_byte_is_refused(tmp_path, trained, refusal):
    path = tmp_path / "cnn.keras"
    content = bytearray((trained / "cnn.keras").read_bytes())
    content[len(content) // 2] ^= 1  # among the weights: still a number
    path.write_bytes(content)

    assert refusal(model.load, path).startswith(f"{path}: 'model.weights.h5' is damaged")


@pytest.mark.parametrize("left_out", ["config.json", "model.weights.h5"])
def test_a_file_that_lacks_an_entry_is_refused(tmp_path, trained, refusal, left_out):
    path = tmp_path / "cnn.keras"
    with zipfile.ZipFile(trained / "cnn.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if name != left_out:
                target.writestr(name, source.read(name))

    assert refusal(model.load, path).startswith(f"{path}: is no readable .keras file")


@pytest.mark.parametrize(
    "config", [b"{", b"{}", b"[]", b'{"module": "os", "class_name": "system", "config": {}}']
)
def test_a_file_with_another_config_is_refused(tmp_path, trained, refusal, config):
    path = tmp_path / "cnn.keras"
    with zipfile.ZipFile(trained / "cnn.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, config if name == "config.json" else source.read(name))

    assert refusal(model.load, path).startswith(f"{path}: is no readable .keras file")


@pytest.mark.parametrize(("shape", "outputs"), [((28, 28, 3), 10), ((28, 28, 1), 11)])
def test_a_model_of_another_shape_is_refused(tmp_path, tf, refusal, shape, outputs):
    import keras

    path = tmp_path / "other.keras"
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(outputs)]
    keras.Sequential(layers).save(path)

    assert refusal(model.load, path) == (
        f"{path}: maps {shape} to {(outputs,)}, not (28, 28, 1) to (10,)"
    )
