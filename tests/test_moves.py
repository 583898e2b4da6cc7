"""The moves of the augmentation, against SciPy's affine transform and against their bounds."""

import math

import numpy as np
import pytest
from scipy.ndimage import affine_transform, center_of_mass

from cnn.kernels import MOVES, Recipe, load
from cnn.network import Network

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


def centres(moved) -> np.ndarray:
    """The centre of mass of each image relative to the image's, (n, 2) as (down, right)."""
    return np.array([center_of_mass(image[..., 0]) for image in moved]) - 13.5


FAR = {"shift": 14, "rotation": 180, "shear": 1, "scale": 1}


@pytest.mark.parametrize(
    ("shape", "moves", "fill"),
    [
        ((28, 28), {"shift": 2, "rotation": 10, "shear": 0.2, "scale": 0.1}, 0.0),
        ((20, 28), {"shift": 2, "rotation": 10, "shear": 0.2, "scale": 0.1}, 1.0),
        ((9, 8), FAR, 0.25),
        ((8, 30), FAR, 0.0),
    ],
    ids=["square", "wide", "far", "far and wide"],
)
def test_agrees_with_scipy(shape, moves, fill):
    images = np.random.default_rng(0).random((40, *shape, 1), np.float32)

    moved = move(images, fill=fill, **moves)

    most = Recipe(**moves)
    for row, image in enumerate(images):
        drawn = 2 * load().uniform(SEED, MOVES, STEP, row, 6).astype(float) - 1
        angle, slant, wide, high, right, down = drawn
        angle, (wide, high) = math.radians(most.rotation * angle), (1 + most.scale) ** drawn[2:4]
        turn = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        columns_first = np.array(turn) @ [[wide, most.shear * slant], [0, high]]
        matrix = columns_first[::-1, ::-1]  # SciPy counts rows first
        centre = (np.array(shape) - 1) / 2
        offset = centre - matrix @ centre + most.shift * np.array([down, right])
        expected = affine_transform(
            image[..., 0].astype(float), matrix, offset, order=1, mode="grid-constant", cval=fill
        )
        np.testing.assert_allclose(moved[row, ..., 0], expected, atol=5e-5)


def test_moves_of_nothing_leave_an_image_where_it_is(images):
    np.testing.assert_allclose(move(images), images, atol=1e-6)


def test_a_shift_stays_within_its_bound_and_uses_it(images):
    offsets = centres(move(images, shift=3)) - centres(images)
    assert np.abs(offsets).max() <= 3.01
    assert (offsets.min(axis=0) < -2.5).all()
    assert (offsets.max(axis=0) > 2.5).all()


def test_a_turn_is_about_the_centre_and_within_its_bound(images):
    down, right = centres(move(images, rotation=30)).T
    angles = np.degrees(np.arctan2(down, right))
    np.testing.assert_allclose(np.hypot(down, right), 4, atol=0.05)
    assert -30.5 <= angles.min() < -25
    assert 25 < angles.max() <= 30.5


def test_a_slant_moves_what_is_off_the_middle_row_and_stays_within_its_bound(images):
    low = np.roll(images, 5, axis=1)  # the blob is 5 rows below the centre
    down, right = centres(move(low, shear=0.4)).T
    np.testing.assert_allclose(down, 5, atol=0.02)
    slants = (right - 4) / 5
    assert -0.41 < slants.min() < -0.3
    assert 0.3 < slants.max() < 0.41


@pytest.mark.parametrize(("axis", "offset"), [(1, 4), (0, 3)], ids=["width", "height"])
def test_a_zoom_is_as_likely_to_grow_as_to_shrink(images, axis, offset):
    low = np.roll(images, 3, axis=1)
    zooms = centres(move(low, scale=0.25))[:, axis] / offset
    assert 1 / 1.26 < zooms.min() < 0.85
    assert 1.2 < zooms.max() < 1.26
    assert 0.35 < (zooms > 1).mean() < 0.65


def test_width_and_height_are_scaled_each_for_itself(images):
    low = np.roll(images, 3, axis=1)
    down, right = centres(move(low, scale=0.25)).T
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.3


def test_each_image_has_moves_of_its_own_that_seed_step_and_place_repeat(images):
    moves = {"shift": 2, "rotation": 10, "shear": 0.2, "scale": 0.1}
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

    moved = move(flat, shift=8, fill=fill)

    assert np.isclose(moved, fill).any()
    low, high = sorted([fill, 0.5])
    assert low - 1e-6 <= moved.min() <= moved.max() <= high + 1e-6


def test_images_in_colour_of_other_sides_are_moved_channel_by_channel(images):
    wide = np.repeat(images[:20, 4:20], 3, axis=3) * np.array([1, 0.5, 0], np.float32)

    moved = move(wide, shift=2, rotation=20, scale=0.1)

    assert moved.shape == (20, 16, 28, 3)
    assert np.abs(moved[..., 0] - wide[..., 0]).max() > 0.1
    np.testing.assert_allclose(moved[..., 1], moved[..., 0] / 2, atol=1e-6)
    assert not moved[..., 2].any()
