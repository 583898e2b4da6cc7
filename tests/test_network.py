"""The network that the kernels compute: its layers, the shapes of their weights, its padding."""

import pytest

from cnn.model.network import Network, network_of

MNIST = (28, 28, 1)


def test_the_layers_of_the_usual_network():
    network = network_of([32, 64], 3, [128], 0.3, [28, 28, 1], 10)

    assert network == Network(MNIST, (32, 64), 3, "valid", (128,), 0.3, 10)
    # Kind, name, shapes in and out, shape of the kernel.
    assert [(*layer[:2], *layer[3:5], *layer.weights.values()) for layer in network.layers()] == [
        ("InputLayer", "images", MNIST, MNIST),
        ("Conv2D", "convolution_1", MNIST, (26, 26, 32), (3, 3, 1, 32), (32,)),
        ("MaxPooling2D", "pooling_1", (26, 26, 32), (13, 13, 32)),
        ("Conv2D", "convolution_2", (13, 13, 32), (11, 11, 64), (3, 3, 32, 64), (64,)),
        ("MaxPooling2D", "pooling_2", (11, 11, 64), (5, 5, 64)),
        ("Flatten", "flatten", (5, 5, 64), (1600,)),
        ("Dropout", "dropout", (1600,), (1600,)),
        ("Dense", "dense", (1600,), (128,), (1600, 128), (128,)),
        ("Dense", "probabilities", (128,), (10,), (128, 10), (10,)),
    ]
    assert network.shapes()[:3] == [(3, 3, 1, 32), (32,), (3, 3, 32, 64)]
    assert network.names()[2:4] == ["convolution_2 kernel", "convolution_2 bias"]
    assert "dropout" not in [layer.name for layer in network._replace(dropout=0.0).layers()]


@pytest.mark.parametrize(
    ("units", "names"),
    [
        ((), ["probabilities"]),
        ((7,), ["dense", "probabilities"]),
        ((7, 5), ["dense_1", "dense_2", "probabilities"]),
        ((7, 5, 6), ["dense_1", "dense_2", "dense_3", "probabilities"]),
    ],
)
def test_hidden_layers(units, names):
    network = network_of((4,), 5, units, 0.0, (10, 10, 3), 3)

    dense = [layer for layer in network.layers() if layer.kind == "Dense"]

    assert [layer.name for layer in dense] == names
    widths = [36, *units, 3]
    assert network.shapes()[2::2] == [*zip(widths, widths[1:], strict=False)]
    assert [layer.settings["activation"] for layer in dense] == ["relu"] * len(units) + ["softmax"]


@pytest.mark.parametrize(
    ("image_shape", "filters", "kernel_size", "padding", "left"),
    [
        (MNIST, (4, 4), 3, "valid", (5, 5)),
        (MNIST, (4, 4, 4), 3, "valid", (1, 1)),
        (MNIST, (4, 4, 4, 4), 3, "same", (1, 1)),
        ((9, 40, 1), (4, 4), 3, "same", (2, 10)),
        ((40, 9, 1), (4, 4), 3, "same", (10, 2)),
        ((8, 8, 3), (4, 4, 4), 1, "valid", (1, 1)),
        ((8, 8, 3), (4,), 5, "valid", (2, 2)),
        ((64, 70, 3), (2, 2, 2, 2, 2, 2), 5, "same", (1, 1)),
    ],
)
def test_the_padding_is_what_leaves_something_of_the_image(
    image_shape, filters, kernel_size, padding, left
):
    network = network_of(filters, kernel_size, (), 0.0, image_shape, 2)

    assert network.padding == padding
    assert network.outputs()[-1] == (*left, filters[-1])
    assert network.problem() == ""


@pytest.mark.parametrize(
    ("sides", "convolutions", "most"),
    [((8, 8), 6, 3), ((28, 28), 5, 4), ((63, 70), 6, 5), ((9, 3), 2, 1), ((1, 9), 1, 0)],
)
def test_more_poolings_than_the_images_bear_are_refused(refusal, sides, convolutions, most):
    message = refusal(network_of, (4,) * convolutions, 3, (), 0.0, (*sides, 1), 2)

    assert message == (
        f"train.filters has {convolutions} convolutions, each with a pooling that halves the "
        f"image; images of {sides[0]} x {sides[1]} pixels bear {most}; shorten it in params.yaml "
        "and run 'dvc repro', which also brings back what DVC removed"
    )
    if most:
        assert min(network_of((4,) * most, 3, (), 0.0, (*sides, 1), 2).outputs()[-1]) >= 1


def test_more_weights_than_memory_holds_are_refused(refusal):
    message = refusal(network_of, (1024,), 1, (4096,), 0.0, (256, 256, 3), 2)

    assert "make 68,719,4" in message
    assert "or prepare.image_size, in params.yaml and run 'dvc repro'" in message
