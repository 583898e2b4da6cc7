"""Draw digits as other people's pictures of them: other pens, other paper, uneven light.

Six variants are for scikit-learn's digits of 8 x 8 pixels, eight pens for MNIST's own.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

BICUBIC = Image.Resampling.BICUBIC
Variant = Callable[[np.ndarray, np.random.Generator], Image.Image]


def picture(values: np.ndarray) -> Image.Image:
    """Return values in [0, 1] as an 8-bit image."""
    return Image.fromarray(np.uint8(np.clip(np.round(255 * values), 0, 255)))


def enlarged(digit: np.ndarray, side: int, margin: int = 0) -> np.ndarray:
    """Return a digit's ink in [0, 1], enlarged to `side` pixels, with a margin around it."""
    return np.pad(np.asarray(picture(digit).resize((side, side), BICUBIC)) / 255, margin)


def off_centre(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    page = np.ones((300, 300))
    top, left = rng.integers(0, 220, 2)
    page[top : top + 80, left : left + 80] -= enlarged(digit, 80)
    return picture(page)


def light(shape: tuple[int, ...], rng: np.random.Generator, darkest: float) -> np.ndarray:
    """Return a light that falls from 1 to `darkest` across the picture, in any direction."""
    rows, columns = np.indices(shape[:2])
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.sin(angle) * rows / shape[0] + np.cos(angle) * columns / shape[1]
    return darkest + (1 - darkest) * (slope - slope.min()) / np.ptp(slope)


def shaded(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    paper = (1 - 0.8 * enlarged(digit, 128, 32)) * light((192, 192), rng, 0.5)
    return picture(paper + rng.normal(0, 0.06, paper.shape))


def turned(digit: np.ndarray, degrees: float) -> Image.Image:
    return picture(1 - np.asarray(picture(enlarged(digit, 128, 32)).rotate(degrees, BICUBIC)) / 255)


SIX: dict[str, Variant] = {
    "dark on light": lambda digit, rng: picture(1 - digit),
    "light on dark": lambda digit, rng: picture(digit),
    "large, 800x800": lambda digit, rng: picture(1 - enlarged(digit, 640, 80)),
    "off-centre, small": off_centre,
    "turned by 10° either way": lambda digit, rng: turned(digit, rng.choice([-10, 10])),
    "shaded paper with noise": shaded,
}


def pen(digit: np.ndarray, widen: float = 0.0, thin: float = 0.0) -> np.ndarray:
    """Return a 20x20 digit's ink as crisp strokes in 400x400 pixels, widened or thin."""
    solid = ndimage.gaussian_filter(enlarged(digit[4:24, 4:24] / 255, 240, 80), 3) > 0.45
    inside = ndimage.distance_transform_edt(solid)
    if thin:
        ridge = (ndimage.gaussian_laplace(inside, 2) < -0.18) & solid
        strokes = ndimage.distance_transform_edt(~ridge) < thin / 2
    else:
        strokes = inside - ndimage.distance_transform_edt(~solid) > -widen
    return ndimage.gaussian_filter(strokes.astype(float), 1)[..., None]


def photo(
    ink: np.ndarray, rng: np.random.Generator, paper: object, colour: object, darkest: float = 0.6
) -> Image.Image:
    """Return ink of a colour on paper (a colour or an image), in uneven light, with noise."""
    scene = np.asarray(paper, dtype=float) * (1 - ink) + np.array(colour) * ink
    scene = scene * light(scene.shape, rng, darkest)[..., None]
    return picture(scene + rng.normal(0, 0.02, scene.shape))


def squared(rng: np.random.Generator) -> np.ndarray:
    """Return squared paper, its lines a little askew."""
    rows, columns = np.indices((400, 400))
    slope = rng.uniform(-0.05, 0.05)
    first = (rows + slope * columns + rng.integers(40)) % 40 < 2
    second = (columns - slope * rows + rng.integers(40)) % 40 < 2
    return np.where((first | second)[..., None], (0.62, 0.74, 0.92), (0.96, 0.95, 0.93))


def speckled(rng: np.random.Generator) -> np.ndarray:
    paper = np.full((400, 400, 3), 0.95)
    for row, column in rng.integers(5, 390, (25, 2)):
        paper[row : row + 6, column : column + 6] = 0.1
    return paper


def framed() -> np.ndarray:
    return np.pad(np.full((376, 376, 3), 0.95), ((12, 12), (12, 12), (0, 0)))


PENS: dict[str, Variant] = {
    "ballpoint, half in shadow": lambda d, rng: photo(
        pen(d, thin=9), rng, (0.96, 0.95, 0.93), (0.1, 0.15, 0.5), 0.35
    ),
    "faint thin pencil": lambda d, rng: photo(pen(d, thin=5), rng, (1, 1, 1), (0.7, 0.7, 0.7), 0.8),
    "thick marker": lambda d, rng: photo(pen(d, widen=12), rng, (1, 1, 1), (0.1, 0.1, 0.1)),
    "yellow pen": lambda d, rng: photo(pen(d), rng, (1, 1, 1), (1, 0.9, 0.1), 0.8),
    "chalk on a blackboard": lambda d, rng: photo(pen(d), rng, (0.12, 0.2, 0.15), (0.85,) * 3),
    "squared paper": lambda d, rng: photo(pen(d, thin=9), rng, squared(rng), (0.1, 0.1, 0.35)),
    "paper with specks": lambda d, rng: photo(pen(d), rng, speckled(rng), (0.1, 0.1, 0.1), 0.8),
    "black frame": lambda d, rng: photo(pen(d), rng, framed(), (0.1, 0.1, 0.1), 0.9),
}
