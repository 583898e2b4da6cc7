"""The network that the kernels compute: the shapes of its weights, its names, its padding."""

import pytest

from cnn.network import Network, network_of

MNIST = (28, 28, 1)


def test_the_usual_network():
    network = network_of([32, 64], 3, [128], 0.0, [28, 28, 1], 10)

    assert network == Network(MNIST, (32, 64), 3, "valid", (128,), 0.0, 10)
    assert network.outputs() == [(28, 28, 1), (13, 13, 32), (5, 5, 64)]
    assert network.widths() == [1600, 128, 10]
    assert network.shapes() == [
        (3, 3, 1, 32),
        (32,),
        (3, 3, 32, 64),
        (64,),
        (1600, 128),
        (128,),
        (128, 10),
        (10,),
    ]
    assert network.names() == [
        f"{layer} {part}"
        for layer in ("convolution_1", "convolution_2", "dense", "probabilities")
        for part in ("kernel", "bias")
    ]


@pytest.mark.parametrize(
    ("units", "widths", "names"),
    [
        ((), [36, 3], ["probabilities"]),
        ((7,), [36, 7, 3], ["dense", "probabilities"]),
        ((7, 5), [36, 7, 5, 3], ["dense_1", "dense_2", "probabilities"]),
        ((7, 5, 6), [36, 7, 5, 6, 3], ["dense_1", "dense_2", "dense_3", "probabilities"]),
    ],
)
def test_hidden_layers(units, widths, names):
    network = network_of((4,), 5, units, 0.5, (10, 10, 2), 3)

    assert network.widths() == widths
    assert network.weighted() == ["convolution_1", *names]
    assert network.shapes()[:2] == [(5, 5, 2, 4), (4,)]
    assert network.shapes()[2::2] == [*zip(widths, widths[1:], strict=False)]
    assert network.shapes()[3::2] == [(width,) for width in widths[1:]]
    assert len(network.names()) == len(network.shapes())


@pytest.mark.parametrize(
    ("image_shape", "filters", "kernel_size", "padding", "left"),
    [
        (MNIST, (4, 4), 3, "valid", (5, 5)),
        (MNIST, (4, 4, 4), 3, "valid", (1, 1)),
        (MNIST, (4, 4, 4, 4), 3, "same", (1, 1)),
        ((10, 10, 1), (4, 4), 3, "valid", (1, 1)),
        ((9, 40, 1), (4, 4), 3, "same", (2, 10)),
        ((40, 9, 1), (4, 4), 3, "same", (10, 2)),
        ((8, 8, 3), (4, 4, 4), 1, "valid", (1, 1)),
        ((8, 8, 3), (4,), 5, "valid", (2, 2)),
        ((64, 70, 3), (2, 2, 2, 2, 2, 2), 5, "same", (1, 1)),
        ((64, 70, 3), (2, 2, 2, 2, 2, 2), 1, "valid", (1, 1)),
    ],
)
def test_the_padding_is_what_leaves_something_of_the_image(
    image_shape, filters, kernel_size, padding, left
):
    network = network_of(filters, kernel_size, (), 0.0, image_shape, 2)

    assert network.padding == padding
    assert network.outputs()[-1] == (*left, filters[-1])
    assert network.widths()[0] == left[0] * left[1] * filters[-1]


@pytest.mark.parametrize(
    ("sides", "convolutions", "bear"),
    [((8, 8), 6, 3), ((28, 28), 5, 4), ((63, 70), 6, 5), ((9, 3), 2, 1), ((1, 9), 1, 0)],
)
def test_more_poolings_than_the_images_bear_are_refused(refusal, sides, convolutions, bear):
    message = refusal(network_of, (4,) * convolutions, 3, (), 0.0, (*sides, 1), 2)

    assert message == (
        f"train.filters has {convolutions} convolutions, each with a pooling that halves the "
        f"image; images of {sides[0]} x {sides[1]} pixels bear {bear}; shorten it in params.yaml"
    )
    if bear:
        assert min(network_of((4,) * bear, 3, (), 0.0, (*sides, 1), 2).outputs()[-1]) >= 1
