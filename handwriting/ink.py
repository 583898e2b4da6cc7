"""Bring a picture of one handwritten digit into the form of MNIST's images.

Takes a decoded picture and gives a (28, 28) uint8 image, 0 paper and 255 ink, made as
MNIST's were: the ink, black or white only, is fitted into 20x20 pixels with its aspect ratio kept
and smooth edges, and placed in 28x28 by its centre of mass. Source: LeCun, Bottou, Bengio and
Haffner (1998), "Gradient-based learning applied to document recognition", Proceedings of the IEEE
86(11), section III-A. Used by `python -m handwriting.predict` and `python -m handwriting.draw`.
"""

import math

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from cnn.base.errors import UserError

SIDE = 160  # pixels, to which the longer side of a picture is brought before the work
FULL = 1.15  # what stays grey: this share of the ink's strength is the whitest
CONTRAST = 0.07  # ink weaker than this share of the paper's brightness is no ink
FINE = 60  # the digit's longer side while its strokes are measured
TINY, MARGIN = 64, 0.5  # pixels; a picture below gets so much paper around it, of its longer side
STROKE = 1.8  # strokes thinner than this, in MNIST's pixels, are widened: few of MNIST's are


def is_bare(pixels: np.ndarray) -> bool:
    """Tell whether (h, w) uint8 pixels are in MNIST's form, as all its 70,000 images are."""
    if pixels.shape != (28, 28) or not pixels.any():
        return False
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    centre = np.array(ndimage.center_of_mass(pixels.astype(float)))
    return bool(19 <= side <= 20 and np.abs(centre - 14).max() < 0.55)


def check_size(image: Image.Image) -> None:
    """Raise UserError for a picture too small or too narrow for a digit."""
    longer, shorter = max(image.size), min(image.size)
    if shorter < 3 or longer < 8 or longer > 20 * shorter:
        raise UserError(f"{image.width}x{image.height} pixels cannot hold a digit")


def grey(image: Image.Image) -> np.ndarray:
    """Return the picture as float32 (h, w) in [0, 1], in the channel where its contrast is best."""
    check_size(image)
    width, height = image.size
    longer = max(width, height)
    if image.mode.startswith(("I", "F")):  # more than 8 bits: Pillow would clip them
        values = np.asarray(image, dtype=np.float32)
        if not np.isfinite(values).all():
            raise UserError("holds values that are not finite")
        low, high = float(values.min()), float(values.max())
        top = 65535.0 if image.mode.startswith("I") and high <= 65535 else high - min(low, 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            values = (values - min(low, 0.0)) / (top or 1.0)
        if not np.isfinite(values).all():
            raise UserError(f"holds values from {low:g} to {high:g}, too far apart for a picture")
        image = Image.fromarray(values)
    else:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    size = (max(1, round(width * SIDE / longer)), max(1, round(height * SIDE / longer)))
    resample = Image.Resampling.BOX if longer > SIDE else Image.Resampling.BICUBIC
    pixels = np.asarray(image.resize(size, resample), dtype=np.float32)
    if pixels.ndim == 2:
        return pixels
    pixels = pixels / np.float32(255)
    if pixels.shape[2] == 4:  # on white paper, and white ink on black
        colour, alpha = pixels[..., :3], pixels[..., 3:]
        pixels = colour * alpha + (1 - alpha)
        if np.ptp(pixels) < CONTRAST:
            pixels = colour * alpha
    luma = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    channel = pixels[..., pixels[::2, ::2].std(axis=(0, 1)).argmax()]
    return channel if channel.std() > 1.5 * luma.std() else luma


def surface(values: np.ndarray) -> np.ndarray:
    """Return the smooth surface through the border of (h, w) values that most of it lies on."""
    height, width = values.shape
    rows, columns = np.indices(values.shape, dtype=np.float32)
    y, x = rows / height - 0.5, columns / width - 0.5
    terms = np.stack([np.ones_like(x), x, y, x**2 + y**2], axis=-1)
    ring = np.ones(values.shape, dtype=bool)
    ring[2:-2, 2:-2] = False
    known, wanted = terms[ring], values[ring]
    weight = np.ones_like(wanted)
    for _ in range(12):  # least absolute deviations by reweighting: ink at the border has no say
        weighted = known.T * weight
        solution = np.linalg.solve(weighted @ known, weighted @ wanted)
        weight = 1 / np.maximum(np.abs(wanted - known @ solution), 0.01)
    return terms @ solution


def resized(values: np.ndarray, shape: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """Return float32 (h, w) values in another shape."""
    return np.asarray(Image.fromarray(values).resize(shape[::-1], resample))


def ink_of(values: np.ndarray) -> np.ndarray:
    """Return how much ink is where: float32 (h, w), 0 paper; even light, ink darker or brighter."""
    scale = 64 / max(values.shape)
    shape = tuple(max(8, round(scale * side)) for side in values.shape)
    coarse = resized(values, shape, Image.Resampling.BOX)
    paper = surface(coarse)
    if ((coarse - paper) ** 3).sum() > 0:  # most of what is not paper is brighter
        # Dark paper has no light of its own to measure the ink by: the difference counts.
        behind = resized(paper.astype(np.float32), values.shape, Image.Resampling.BILINEAR)
        values, coarse, paper = 1 + behind - values, 1 + paper - coarse, np.ones_like(paper)
    paper = np.clip(paper, 0.15, None)
    if part := sheet(1 - coarse / paper):
        rows, columns = (
            slice(round(side * piece.start / low), round(side * piece.stop / low))
            for side, low, piece in zip(values.shape, shape, part, strict=True)
        )
        return ink_of(values[rows, columns])
    local = ndimage.grey_closing(coarse / paper, size=max(shape) // 2)
    paper = paper * np.clip(ndimage.gaussian_filter(local, 2), 0.5, None)
    ink = 1 - values / resized(paper.astype(np.float32), values.shape, Image.Resampling.BILINEAR)
    ink = ndimage.gaussian_filter(ink, max(values.shape) / 200)
    return np.clip(ink - np.median(ink), 0, None)


def otsu(values: np.ndarray) -> float:
    """Return the threshold between two classes of values (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    middle = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middle)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middle[np.nan_to_num(spread).argmax()])


def without_lines(soft: np.ndarray) -> np.ndarray:
    """Return (h, w) ink without the lines of ruled or squared paper, if it shows any."""
    for _ in range(2):  # lines from left to right, then those from top to bottom
        soft = soft.T
        height, width = soft.shape
        inked = ndimage.maximum_filter1d(soft, 3, axis=0) > 0.25
        if inked.any(axis=0).mean() < 0.92:
            continue  # no line goes from end to end
        columns, slopes = np.arange(width), np.linspace(-0.12, 0.12, 49)
        shifts = np.round(slopes[:, None] * (columns - width / 2)).astype(int)
        reach = np.abs(shifts).max()
        wrapped = np.pad(inked[:, ::4], ((reach, reach), (0, 0)), mode="wrap")
        windows = np.lib.stride_tricks.sliding_window_view(wrapped, height, axis=0)
        sheared = windows[reach + shifts[:, ::4], columns[: windows.shape[1]]]
        full = sheared.mean(axis=1) > 0.92  # of each slope, which rows are inked from end to end
        best = full.sum(axis=1).argmax()
        rows, line = (np.arange(height)[:, None] + shifts[best]) % height, full[best]
        runs, count = ndimage.label(line)
        thick = int(np.bincount(runs)[1:].max(initial=0))
        if not 0 < thick <= height / 12:
            continue
        level = soft[rows, columns]
        opened = ndimage.grey_opening(level, size=(2 * thick + 1, 1))
        band = ndimage.binary_dilation(line, iterations=thick)
        cleaned = np.empty_like(soft)
        cleaned[rows, columns] = np.where(band[:, None], opened, level)
        left = np.flatnonzero((cleaned > 0.5).any(axis=0))
        inside = left.size and left[0] > 0.08 * width and left[-1] < 0.92 * width
        if count > 1 and left.size or inside:  # one line alone may be a stroke
            soft = cleaned
    return soft


def strokes_of(ink: np.ndarray) -> np.ndarray:
    """Return the digit's strokes, cut out: float32 (h, w) in [0, 1] with specks and lines gone."""
    upper = ink[ink > otsu(ink)]
    level = float(np.percentile(upper, 70)) if upper.size else 0.0
    if level < CONTRAST and ink.max() > 3 * CONTRAST:  # what is most of it is paper's faint lines
        level = float(np.percentile(ink[ink > CONTRAST], 70))
    if level < CONTRAST:
        raise UserError("no ink found: the picture is blank, or all of it is ink")
    soft = without_lines(np.clip((ink / level - 0.1) / 0.8, 0, 2))
    names, count = ndimage.label(soft > 0.35, structure=np.ones((3, 3)))
    if not count:
        raise UserError("no ink found: the picture is blank, or all of it is ink")
    boxes = ndimage.find_objects(names)
    mass = np.append(0, ndimage.sum_labels(np.minimum(soft, 1), names, np.arange(1, count + 1)))
    along = np.zeros(count + 1)  # the longest part of a side of the picture that each one covers
    for side in (names[0], names[-1], names[:, 0], names[:, -1]):
        along = np.maximum(along, np.bincount(side, minlength=count + 1) / side.size)
    inner = mass[along == 0].max(initial=0)
    if inner > 0.6 * mass.max():  # what touches the border is a shadow, a finger, another word
        mass[along > 0] = 0
    elif inner > 0.1 * mass.max():  # ... and what lies along it is a frame or the paper's edge
        mass[along > 0.5] = 0
    wide = max(range(count), key=lambda i: np.prod([p.stop - p.start for p in boxes[i]]))
    outline = names[boxes[wide]] == wide + 1
    edges = tuple(slice(side // 10 + 1, side - side // 10 - 1) for side in outline.shape)
    hollow = outline[edges].sum() < 0.05 * outline.sum()
    if hollow and np.delete(mass, wide + 1).max() > 0.1 * mass.max():
        mass[wide + 1] = 0  # a drawn box
    solid = (mass > 0.05 * mass.max())[names]
    edge = solid & ~ndimage.binary_erosion(solid)
    reach = max(1, round(solid.sum() / edge.sum()))  # about half the strokes' width
    near = ndimage.maximum_filter(solid, 2 * reach + 1)
    return np.where(near, np.minimum(soft / FULL, 1), 0)


def sheet(ink: np.ndarray) -> tuple[slice, slice] | None:
    """Return where a sheet of paper lies, when what was taken for ink is one with a digit on it."""
    solid = ink > otsu(ink)
    if np.ptp(ink) < 0.2 or ink[solid].mean() - ink[~solid].mean() < 0.2:
        return None
    names, _ = ndimage.label(solid)
    blob = names == np.bincount(names.flat)[1:].argmax() + 1
    box = ndimage.find_objects(blob.astype(int))[0]
    area, whole = blob.sum(), ndimage.binary_fill_holes(blob[box]).sum()
    if area < 0.15 * ink.size or whole < 0.85 * blob[box].size or whole - area < 0.005 * whole:
        return None
    margin = [max(2, round(0.03 * (part.stop - part.start))) for part in box]
    return tuple(
        slice(part.start + edge, part.stop - edge) for part, edge in zip(box, margin, strict=True)
    )


def fit(strokes: np.ndarray) -> np.ndarray:
    """Return the strokes as MNIST shows them: uint8 (28, 28), box in 20x20, centred by mass."""
    fine = np.pad(boxed(strokes, FINE), FINE // 10)
    solid = fine > 0.5
    depth = ndimage.distance_transform_edt(solid)
    unit = FINE / 20
    width = 4 * depth[solid].mean() - 2  # the mean depth of a bar is a quarter of its width
    if (missing := STROKE * unit - width) > 1:
        depth -= ndimage.distance_transform_edt(~solid)
        fine = np.clip(depth + missing / 2 + 0.5, 0, 1).astype(np.float32)
    # MNIST's ink was black and white: its edges are crisp and its loops open, a small or blurred
    # picture's are not.
    fine = np.clip(2 * fine - ndimage.gaussian_filter(fine, unit), 0, 1)
    small = boxed(fine, 20)
    canvas = np.zeros((28, 28), dtype=np.uint8)
    centre = ndimage.center_of_mass(small)
    top, left = (
        min(max(round(14 - middle), 0), 28 - side)
        for middle, side in zip(centre, small.shape, strict=True)
    )
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = np.round(255 * small)
    return canvas


def bounds(strokes: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of what is drawn."""
    rows = np.flatnonzero((strokes > 0.1).any(axis=1))
    columns = np.flatnonzero((strokes > 0.1).any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def boxed(strokes: np.ndarray, side: int) -> np.ndarray:
    """Return the box around the strokes, its longer side scaled to `side` pixels."""
    top, bottom, left, right = bounds(strokes)
    box = strokes[top:bottom, left:right].astype(np.float32)
    scale = side / max(box.shape)
    shape = tuple(max(1, round(scale * length)) for length in box.shape)
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.clip(resized(box, shape, resample), 0, 1)


def unenlarged(image: Image.Image) -> Image.Image:
    """Undo an enlargement by whole pixels: what is left is smoothed when it is enlarged again."""
    pixels = np.asarray(image)
    factor = math.gcd(*image.size)
    for axis in (0, 1):
        lines = np.moveaxis(pixels, axis, 0).reshape(pixels.shape[axis], -1)
        changes = np.flatnonzero((lines[1:] != lines[:-1]).any(axis=1)) + 1
        factor = math.gcd(factor, *changes.tolist())
    if factor == 1 or min(image.size) < 8 * factor:
        return image
    size = image.width // factor, image.height // factor
    return image.resize(size, Image.Resampling.NEAREST)


def with_margin(image: Image.Image) -> Image.Image:
    """Return a tiny picture with paper around it: its digit often fills it, to the border.

    Of the paper there must be more to see than of the ink, and what touches the border passes for
    something else. Chosen on MNIST's validation images, reduced to 8 x 8 pixels.
    """
    if max(image.size) >= TINY or image.mode.startswith(("I", "F")):  # Pillow would clip those
        return image
    rgb = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(rgb)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    paper = tuple(int(value) for value in np.median(border, axis=0))
    return ImageOps.expand(rgb, max(1, round(MARGIN * max(image.size))), paper)


def to_mnist(image: Image.Image) -> np.ndarray:
    """Return the digit in a picture in MNIST's form.

    Returns
    -------
    uint8 (28, 28), 0 paper to 255 ink. A picture that has this form already keeps it to the bit;
    one that only shows it dark on light is inverted.

    Raises
    ------
    UserError
        If there is no ink to be seen.
    """
    image = unenlarged(image)
    if image.size == (28, 28) and image.mode in ("L", "RGB", "P", "1"):
        pixels = np.asarray(image.convert("RGB"))
        if np.ptp(pixels, axis=2).max() == 0:
            for bare in (pixels[..., 0], 255 - pixels[..., 0]):
                if is_bare(bare):
                    return bare
    check_size(image)
    image = with_margin(image)
    strokes = strokes_of(ink_of(grey(image)))
    top, bottom, left, right = bounds(strokes)
    height, width = strokes.shape
    reach = max(bottom - top, right - left)
    if reach < 0.3 * max(height, width):  # small on its page: look again, closer
        across, down = image.width / width, image.height / height
        box = (left - reach / 2) * across, (top - reach / 2) * down
        box += (right + reach / 2) * across, (bottom + reach / 2) * down
        limits = (0, 0, image.width, image.height)
        box = [min(max(round(b), 0), limits[2 + i % 2]) for i, b in enumerate(box)]
        strokes = strokes_of(ink_of(grey(image.crop(box))))
    return fit(strokes)
