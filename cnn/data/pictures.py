"""Read the image files of strangers with Pillow: bounded, upright, one line on failure."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cnn.base.errors import UserError
from cnn.base.files import read_bytes
from cnn.base.program import silence

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 16_000_000
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
MODES = (*GREY_MODES, "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # 8 bits, and 16 of grey


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(data: bytes) -> tuple[Image.Image, bool]:
    """Return the first frame of an image file, upright, and whether there are more.

    Raises
    ------
    UserError
        The bytes are no image, a damaged one, or one of more than MAX_PIXELS.
    """
    if not data:
        raise UserError("the file is empty")
    try:
        with quiet():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read")
            with silence() if image.format == "TIFF" else nullcontext():
                image.load()
            return ImageOps.exif_transpose(image), has_second_frame(image)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"a bomb: at most {MAX_PIXELS:,} pixels are read") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"not an image of a kind that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # a decoder may raise anything on a damaged file: struct.error, ...
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"damaged image: {cause}") from error


def decode_file(path: str | Path) -> tuple[Image.Image, bool]:
    """Return what `decode` does of a regular file of at most MAX_BYTES; errors without its name."""
    return decode(read_bytes(path, MAX_BYTES))


def has_second_frame(image: Image.Image) -> bool:
    """Tell whether an image has more than one frame, without counting them: a file can have 10⁶."""
    try:
        image.seek(1)
    except Exception:  # whatever is wrong with it, the first frame has been read
        return False
    return True


def to_pixels(
    image: Image.Image, sides: tuple[int, int] | None, channels: int | None
) -> NDArray[np.uint8]:
    """Return an image as uint8 (h, w, c).

    Parameters
    ----------
    sides : (h, w), to which it is resized; None keeps its own.
    channels : 1 for grey, 3 for colour; None for what it is.
    """
    if channels is None:
        channels = 1 if image.mode in GREY_MODES else 3
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255
        deep, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(np.where(deep == clear, 255, deep // 257).astype(np.uint8))
    if image.has_transparency_data:  # Pillow would drop it; what is not there is white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    if sides is not None:
        # Pillow widens the filter when it shrinks an image, which keeps it from aliasing.
        image = image.resize(sides[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def read_picture(
    path: Path, sides: tuple[int, int] | None, channels: int | None
) -> tuple[NDArray[np.uint8], int]:
    """Return the picture in a file as `to_pixels` does, and how many channels the file itself has.

    Raises
    ------
    UserError
        The file holds no picture that can be used; without its name.
    """
    image, more = decode_file(path)
    if more:
        raise UserError("has several frames; save each as a picture of its own")
    if image.mode not in MODES:
        raise UserError(f"has pixels of mode {image.mode}; save it in 8 bits")
    return to_pixels(image, sides, channels), 1 if image.mode in GREY_MODES else 3
