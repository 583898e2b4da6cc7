"""The preprocessing: MNIST's form out of every kind of picture, one clear error out of the rest."""

import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from cnn.base.errors import UserError
from handwriting.ink import is_bare, to_mnist


def seven(width: int = 120, height: int = 160, pen: int = 12) -> np.ndarray:
    """Return the ink of a seven in [0, 1]."""
    image = Image.new("L", (width, height), 0)
    strokes = [(0.25, 0.2), (0.75, 0.2), (0.45, 0.8)]
    points = [(x * width, y * height) for x, y in strokes]
    ImageDraw.Draw(image).line(points, fill=255, width=pen, joint="curve")
    return np.asarray(image) / 255


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.uint8(np.clip(values * 255, 0, 255)))


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two images."""
    return float(np.corrcoef(first.ravel().astype(float), second.ravel().astype(float))[0, 1])


def in_mnists_form(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and is_bare(image) and image.max() > 200


REFERENCE = to_mnist(grey(1 - seven()))


def test_the_form_is_mnists():
    assert in_mnists_form(REFERENCE)
    rows, columns = np.nonzero(REFERENCE)
    assert np.ptp(rows) + 1 == 20
    assert 12 <= np.ptp(columns) + 1 <= 18  # the aspect ratio of the seven, 0.9 with its pen
    mass = REFERENCE / REFERENCE.sum()
    assert abs((mass.sum(axis=1) * np.arange(28)).sum() - 14) <= 0.55
    assert abs((mass.sum(axis=0) * np.arange(28)).sum() - 14) <= 0.55


def test_a_bare_mnist_image_stays_as_it_is():
    for mode in ("L", "RGB", "P"):
        assert np.array_equal(to_mnist(Image.fromarray(REFERENCE).convert(mode)), REFERENCE)


def test_a_bare_image_dark_on_light_is_inverted_and_no_more():
    assert np.array_equal(to_mnist(Image.fromarray(255 - REFERENCE)), REFERENCE)


def test_what_is_almost_bare_comes_close_to_the_bare_image():
    for border in (1, 3, 30):
        almost = np.pad(255 - REFERENCE, border, constant_values=255)
        # The centre falls between two pixels, and may be rounded to either.
        assert likeness(to_mnist(Image.fromarray(almost)), REFERENCE) > 0.8


def test_an_enlarged_mnist_image_comes_back_to_the_bit():
    large = Image.fromarray(REFERENCE).resize((280, 280), Image.Resampling.NEAREST)
    assert np.array_equal(to_mnist(large), REFERENCE)


def pictures() -> dict[str, Image.Image]:
    ink = seven()[..., None]
    rng = np.random.default_rng(0)
    rows, columns = np.indices((160, 120))
    white = np.ones((160, 120, 3))

    def paint(paper, colour) -> np.ndarray:
        return paper * (1 - ink) + np.array(colour) * ink

    shadow = (0.35 + 0.65 * columns / 120)[..., None]
    noise = rng.normal(0, 0.03, white.shape)
    lines = np.where((rows % 40 < 3)[..., None], (0.1, 0.1, 0.4), 1.0)
    squares = np.where(((rows % 20 < 1) | (columns % 20 < 1))[..., None], (0.6, 0.75, 0.9), 1.0)
    specks = white.copy()
    for row, column in rng.integers(4, 116, (12, 2)):
        specks[row : row + 3, column : column + 3] = 0.1
    frame = np.pad(np.ones((152, 112, 3)), ((4, 4), (4, 4), (0, 0)))
    page = np.full((600, 900, 3), 1.0)
    page[400:560, 700:820] = paint(white, (0.1, 0.1, 0.1))
    desk = np.full((260, 240, 3), 0.25)
    desk[50:210, 60:180] = paint(white, (0.1, 0.1, 0.1))
    transparent = np.concatenate([np.zeros((160, 120, 3)), ink], axis=-1)
    return {
        "light on dark": grey(seven()),
        "chalk": grey(paint(0.2 * white, (0.8, 0.85, 0.8)) + noise),
        "faint pencil": grey(paint(white, (0.75, 0.75, 0.75)) + noise / 3),
        "yellow pen": grey(paint(white, (1, 0.9, 0.1))),
        "red on green, equally bright": grey(paint((0.3, 0.6, 0.3) * white, (0.87, 0.35, 0.3))),
        "shadow": grey(paint(white, (0.1, 0.1, 0.2)) * shadow + noise),
        "paper ruled as dark as the ink": grey(paint(lines, (0.1, 0.1, 0.4))),
        "squared paper": grey(paint(squares, (0.1, 0.1, 0.4))),
        "specks": grey(paint(specks, (0.1, 0.1, 0.1))),
        "frame": grey(paint(frame, (0, 0, 0))),
        "small in the corner of a page": grey(page),
        "a sheet on a dark desk": grey(desk),
        "transparent, black ink": grey(transparent),
        "transparent, white ink": grey(np.concatenate([white, ink], axis=-1)),
        "16-bit grey": Image.fromarray(np.uint16((1 - seven()) * 20000 + 3000)),
        "32-bit float": Image.fromarray(np.float32(1 - seven())),
        "32-bit integers": Image.fromarray(np.int32((1 - seven()) * 70000)),
        "CMYK": grey(paint(white, (0.1, 0.1, 0.1))).convert("CMYK"),
        "grey with alpha": grey(1 - seven()).convert("LA"),
        "1 bit": grey(1 - seven()).convert("1"),
        "palette": grey(paint(white, (0.1, 0.1, 0.5))).convert("P"),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_kind_of_picture_gives_the_same_digit(name: str):
    image = to_mnist(pictures()[name])
    assert in_mnists_form(image)
    assert likeness(image, REFERENCE) > 0.8


@pytest.mark.parametrize("pen", [3, 8, 16, 28])
def test_thin_and_thick_pens_come_near_mnists_stroke(pen: int):
    image = to_mnist(grey(1 - seven(240, 320, pen)))
    ink = image.sum() / 255
    assert 35 < ink < 140  # of MNIST's test images, 98 % lie between these


def test_a_palette_with_transparency_is_read():
    image = grey(1 - seven()).convert("P")
    image.info["transparency"] = int(np.asarray(image)[0, 0])  # the paper's colour
    assert likeness(to_mnist(image), REFERENCE) > 0.95


def test_a_bar_that_stands_apart_is_kept_and_a_speck_is_not():
    page = Image.new("L", (200, 200), 255)
    pen = ImageDraw.Draw(page)
    pen.line([(80, 50), (80, 95)], fill=0, width=10)
    pen.arc([(62, 88), (130, 156)], 235, 120, fill=0, width=10)
    without = to_mnist(page)
    pen.rectangle([(20, 180), (24, 184)], fill=0)
    assert np.array_equal(to_mnist(page), without)
    pen.line([(94, 50), (135, 50)], fill=0, width=9)  # the bar of the five
    five = to_mnist(page)
    assert five[4:9, 16:20].max() > 150
    assert without[4:9, 17:20].max() < 60


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (2, 400), (5, 1000)])
def test_what_cannot_hold_a_digit_is_refused(side: tuple[int, int]):
    with pytest.raises(UserError, match="cannot hold a digit"):
        to_mnist(Image.new("L", side, 255))


def test_no_ink_is_said_plainly():
    rng = np.random.default_rng(0)
    slope = np.linspace(0.4, 1, 200) * np.ones((200, 1))
    blanks = [np.full((60, 60), 1.0), np.zeros((60, 60)), slope, np.full((60, 60), 0.5)]
    blanks += [slope + rng.normal(0, 0.02, slope.shape), 0.7 + rng.normal(0, 0.05, slope.shape)]
    for blank in blanks:
        with pytest.raises(UserError, match="no ink"):
            to_mnist(grey(blank))


def test_light_on_dark_is_seen_as_dark_on_light():
    """Digits that touch the picture's border, where the paper is hard to tell."""
    digits = load_digits().images[:50] / 16
    alike = [likeness(to_mnist(grey(digit)), to_mnist(grey(1 - digit))) for digit in digits]
    assert np.mean(np.array(alike) > 0.99) > 0.88


def test_values_that_are_not_finite_are_refused():
    values = np.float32(1 - seven())
    values[3, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        to_mnist(Image.fromarray(values))


def test_values_too_far_apart_are_refused():
    values = np.float32(1 - seven()) * np.float32(3e38)
    values[3, 3] = -3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="too far apart"):
            to_mnist(Image.fromarray(values))


def test_a_small_digit_on_faint_lines_is_found():
    page = Image.new("RGB", (600, 600), (245, 245, 245))
    pen = ImageDraw.Draw(page)
    for row in range(0, 600, 60):
        pen.line([(0, row), (600, row)], fill=(150, 180, 220), width=2)
    pen.line([(290, 248), (315, 248), (300, 290)], fill=(30, 40, 120), width=5)
    assert likeness(to_mnist(page), REFERENCE) > 0.6


def test_strangers_digits_look_alike_in_every_kind_of_picture():
    """Variants of one digit must end as one image: what is measured is the preprocessing."""
    rng = np.random.default_rng(0)
    for digit in load_digits().images[:12] / 16:
        plain = to_mnist(grey(digit))
        large = grey(1 - np.pad(digit, 1)).resize((300, 300), Image.Resampling.BICUBIC)
        page = Image.new("L", (400, 500), 255)
        page.paste(large.resize((120, 120)), tuple(rng.integers(10, 250, 2).tolist()))
        for variant in (grey(1 - digit), large, page):
            assert likeness(to_mnist(variant), plain) > 0.75


@pytest.mark.parametrize("light", [False, True])
def test_a_tiny_picture_that_its_digit_fills_is_read_as_one_with_paper_around_it(light):
    """scikit-learn's digits are of 8 x 8 pixels; what touches the border passed for a shadow."""
    ink = np.zeros((12, 8), np.uint8)  # a seven from edge to edge
    ink[:2] = 255
    for row in range(2, 12):
        ink[row, max(0, 7 - row // 2) : max(2, 9 - row // 2)] = 255
    close, far = ink, np.pad(ink, 6)

    first, second = (to_mnist(Image.fromarray(x if light else 255 - x)) for x in (close, far))

    assert likeness(first, second) > 0.9


def test_sixteen_bits_of_a_tiny_picture_stay():
    values = np.full((20, 20), 60_000, np.uint16)
    values[4:16, 9:11] = 1_000
    assert to_mnist(Image.fromarray(values)).max() == 255
