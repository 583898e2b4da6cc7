"""The moves of the augmentation, against SciPy's interpolation and splines."""

import math

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cnn.kernels import MOVES, Recipe, load
from cnn.model.network import Network

SEED, STEP = 42, 7


@pytest.fixture
def images():
    """200 equal smooth blobs right of the centre."""
    y, x = np.mgrid[:28, :28]
    blob = np.exp(-((x - 17.5) ** 2 + (y - 13.5) ** 2) / 12).astype(np.float32)
    return np.tile(blob[np.newaxis, ..., np.newaxis], (200, 1, 1, 1))


def move(images, seed=SEED, step=STEP, row=0, **moves) -> np.ndarray:
    """Move images; what is not named stays off."""
    network = Network(images.shape[1:], (4,), 1, "valid", (), 0.0, 10)
    return load().moved(network, Recipe(seed=seed, **moves), images, step, row)


FAR = {"shift": 0.5, "rotation": 180, "shear": 1, "scale": 1, "elastic": 0.5}


@pytest.mark.parametrize(
    ("shape", "moves", "fill"),
    [
        ((28, 28), {"shift": 0.1, "rotation": 10, "shear": 0.2, "scale": 0.1}, 0.0),
        ((20, 28), {"shift": 0.1, "rotation": 10, "shear": 0.2, "scale": 0.1}, 1.0),
        ((9, 8), FAR, 0.25),
        ((8, 30), FAR, 0.0),
        ((28, 28), {"shift": 0.1}, 0.0),
        ((28, 28), {"rotation": 30}, 0.0),
        ((28, 28), {"shear": 0.4}, 0.0),
        ((28, 28), {"scale": 0.25}, 0.0),
        ((28, 28), {"elastic": 0.1}, 0.0),
        ((256, 9), {"elastic": 0.3}, 0.5),
        ((9, 8), FAR, None),
    ],
    ids=[
        *("square", "wide", "far", "far and wide", "shift", "rotation", "shear", "scale"),
        *("elastic", "elastic and high", "nearest"),
    ],
)
def test_agrees_with_scipy(shape, moves, fill):
    images = np.random.default_rng(0).random((40, *shape, 1), np.float32)

    moved = move(images, fill=fill, **moves)

    most = Recipe(**moves)
    for row, image in enumerate(images):
        drawn = 2 * load().uniform(SEED, MOVES, STEP, row, 104).astype(float) - 1
        angle, slant, wide, high, right, down = drawn[:6]
        angle, (wide, high) = math.radians(most.rotation * angle), (1 + most.scale) ** drawn[2:4]
        turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        columns_first = np.array(turn) @ [[wide, most.shear * slant], [0, high]]
        places = np.indices(shape).reshape(2, -1)  # SciPy counts rows first
        centre = (np.array(shape)[:, None] - 1) / 2
        source = columns_first[::-1, ::-1] @ (places - centre) + centre
        source += most.shift * np.array([[down * shape[0]], [right * shape[1]]])
        # SciPy's spline lies at its node, ours begins there.
        in_cells = places * 4 / np.array(shape)[:, None] + 1
        for axis, nodes in enumerate(drawn[6:].reshape(2, 7, 7)):
            bend = map_coordinates(nodes, in_cells, order=3, prefilter=False)
            source[1 - axis] += most.elastic * shape[1 - axis] * bend
        outside = {"mode": "nearest"} if fill is None else {"mode": "grid-constant", "cval": fill}
        expected = map_coordinates(image[..., 0].astype(float), source, order=1, **outside)
        expected = expected.reshape(shape)
        np.testing.assert_allclose(moved[row, ..., 0], expected, atol=5e-5)


def test_moves_of_nothing_leave_an_image_where_it_is(images):
    np.testing.assert_allclose(move(images), images, atol=1e-6)


def test_each_image_has_moves_of_its_own_that_seed_step_and_place_repeat(images):
    moves = {"shift": 0.1, "rotation": 10, "shear": 0.2, "scale": 0.1}
    first = move(images, **moves)

    assert len(np.unique(first.reshape(200, -1), axis=0)) == 200
    np.testing.assert_array_equal(move(images, **moves), first)
    # Whoever moves a part of the batch moves it as the whole is moved.
    np.testing.assert_array_equal(move(images[50:70], row=50, **moves), first[50:70])
    for other in ({"seed": SEED + 1}, {"seed": SEED + 2**32}, {"step": STEP + 1}):
        moved = move(images, **moves, **other)
        assert not (moved == first).all(axis=(1, 2, 3)).any(), other


@pytest.mark.parametrize("fill", [0.0, 0.25, 1.0])
def test_what_comes_in_from_outside_has_the_chosen_value(fill):
    flat = np.full((50, 9, 9, 1), 0.5, np.float32)

    moved = move(flat, shift=0.5, fill=fill)

    assert np.isclose(moved, fill).any()
    low, high = sorted([fill, 0.5])
    assert low - 1e-6 <= moved.min() <= moved.max() <= high + 1e-6


def test_images_in_colour_of_other_sides_are_moved_channel_by_channel(images):
    wide = np.repeat(images[:20, 4:20], 3, axis=3) * np.array([1, 0.5, 0], np.float32)

    moved = move(wide, shift=0.1, rotation=20, scale=0.1)

    assert moved.shape == (20, 16, 28, 3)
    assert np.abs(moved[..., 0] - wide[..., 0]).max() > 0.1
    np.testing.assert_allclose(moved[..., 1], moved[..., 0] / 2, atol=1e-6)
    assert not moved[..., 2].any()
