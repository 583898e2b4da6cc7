"""The moves of the augmentation, against SciPy's affine transform and against their bounds."""

import math

import numpy as np
import pytest
from scipy.ndimage import affine_transform, center_of_mass

from cnn import augmentation

KEY = np.array([42, 7], np.int64)


@pytest.fixture(autouse=True)
def started(tf):
    """The kernels run as in training: pinned threads, deterministic."""


@pytest.fixture
def images():
    """200 equal smooth blobs right of the centre."""
    y, x = np.mgrid[:28, :28]
    blob = np.exp(-((x - 17.5) ** 2 + (y - 13.5) ** 2) / 12).astype(np.float32)
    return np.tile(blob[np.newaxis, ..., np.newaxis], (200, 1, 1, 1))


def augment(images, key, **moves):
    """Move images; what is not named stays off."""
    still = dict.fromkeys(augmentation.AugmentationParams.model_fields, 0.0)
    return augmentation.augment(images, key, augmentation.AugmentationParams(**(still | moves)))


def centres(moved) -> np.ndarray:
    """The centre of mass of each image relative to the image's, (n, 2) as (down, right)."""
    return np.array([center_of_mass(image[..., 0]) for image in np.asarray(moved)]) - 13.5


@pytest.mark.parametrize("rows", [28, 20], ids=["square", "wide"])
def test_agrees_with_scipy(tf, images, rows):
    images = images[:, 4 : 4 + rows] if rows < 28 else images
    moved = augment(images, KEY, shift=2, rotation=10, shear=0.2, scale=0.1).numpy()
    draws = tf.random.stateless_uniform([6, 200], KEY, -1.0, 1.0).numpy()
    for i, (angle, slant, wide, high, right, down) in enumerate(draws.T[:20]):
        cos, sin = math.cos(math.radians(10 * angle)), math.sin(math.radians(10 * angle))
        wide, high = 1.1**wide, 1.1**high
        columns_first = np.array([[cos, -sin], [sin, cos]]) @ [[wide, 0.2 * slant], [0, high]]
        matrix = columns_first[::-1, ::-1]  # SciPy counts rows first
        centre = np.array([(rows - 1) / 2, 13.5])
        offset = centre - matrix @ centre + 2 * np.array([down, right])
        expected = affine_transform(images[i, ..., 0], matrix, offset, order=1)
        # The two differ in how they fade to paper at the border.
        np.testing.assert_allclose(moved[i, 5:-5, 5:-5, 0], expected[5:-5, 5:-5], atol=1e-5)


def test_without_moves_nothing_changes(images):
    still = augment(images, KEY)
    np.testing.assert_array_equal(still, images)


def test_a_shift_stays_within_its_bound_and_uses_it(images):
    offsets = centres(augment(images, KEY, shift=3)) - centres(images)
    assert np.abs(offsets).max() <= 3.01
    assert (offsets.min(axis=0) < -2.5).all()
    assert (offsets.max(axis=0) > 2.5).all()


def test_a_turn_is_about_the_centre_and_within_its_bound(images):
    down, right = centres(augment(images, KEY, rotation=30)).T
    angles = np.degrees(np.arctan2(down, right))
    np.testing.assert_allclose(np.hypot(down, right), 4, atol=0.05)
    assert 25 < np.abs(angles).max() <= 30.5


def test_a_slant_moves_what_is_off_the_middle_row_and_stays_within_its_bound(images):
    low = np.roll(images, 5, axis=1)  # the blob is 5 rows below the centre
    down, right = centres(augment(low, KEY, shear=0.4)).T
    np.testing.assert_allclose(down, 5, atol=0.02)
    slants = (right - 4) / 5
    assert -0.41 < slants.min() < -0.3
    assert 0.3 < slants.max() < 0.41


@pytest.mark.parametrize(("axis", "offset"), [(1, 4), (0, 3)], ids=["width", "height"])
def test_a_zoom_is_as_likely_to_grow_as_to_shrink(images, axis, offset):
    low = np.roll(images, 3, axis=1)
    zooms = centres(augment(low, KEY, scale=0.25))[:, axis] / offset
    assert 1 / 1.26 < zooms.min() < 0.85
    assert 1.2 < zooms.max() < 1.26
    assert 0.35 < (zooms > 1).mean() < 0.65


def test_width_and_height_are_scaled_each_for_itself(images):
    low = np.roll(images, 3, axis=1)
    down, right = centres(augment(low, KEY, scale=0.25)).T
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.3


def test_each_image_has_moves_of_its_own_and_a_key_repeats_them(images):
    moves = {"shift": 2, "rotation": 10, "shear": 0.2, "scale": 0.1}
    first = augment(images, KEY, **moves).numpy()
    assert len(np.unique(first.reshape(200, -1), axis=0)) == 200
    np.testing.assert_array_equal(augment(images, KEY, **moves), first)
    other = augment(images, np.array([42, 8], np.int64), **moves)
    assert not np.array_equal(other, first)


@pytest.mark.parametrize("fill", [0.0, 0.25, 1.0])
def test_what_comes_in_from_outside_has_the_chosen_value(fill):
    flat = np.full((50, 9, 9, 1), 0.5, np.float32)

    moved = augment(flat, KEY, shift=8, fill=fill).numpy()

    assert np.isclose(moved, fill).any()
    low, high = sorted([fill, 0.5])
    assert low - 1e-6 <= moved.min() <= moved.max() <= high + 1e-6


def test_images_in_colour_of_other_sides_are_moved_channel_by_channel(images):
    wide = np.repeat(images[:20, 4:20], 3, axis=3) * np.array([1, 0.5, 0], np.float32)

    moved = augment(wide, KEY, shift=2, rotation=20, scale=0.1).numpy()

    assert moved.shape == (20, 16, 28, 3)
    assert np.abs(moved[..., 0] - wide[..., 0]).max() > 0.1
    np.testing.assert_allclose(moved[..., 1], moved[..., 0] / 2, atol=1e-6)
    assert not moved[..., 2].any()
