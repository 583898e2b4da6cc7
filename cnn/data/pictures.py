"""Read the image files of strangers with Pillow: bounded, upright, one line on failure."""

import io
import logging
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageOps, TiffImagePlugin

from cnn.base.errors import UserError
from cnn.base.files import read_bytes
from cnn.base.program import silence
from cnn.data.sets import SIDES

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 16_000_000
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib"}
SUFFIXES |= {".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k"}
SUFFIXES |= {".avif", ".heic", ".heif", ".hif"}
HEIF = "HEIF"  # what pillow-heif calls the format
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
EITHER_BRANDS = {b"mif1", b"msf1"}  # of HEIC and of AVIF; the compatible brands tell them apart
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")
MODES = (*GREY_MODES, "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # 8 bits, and 16 of grey
FITS = ("pad", "stretch", "crop")
SUBFILE_TYPE = 254  # a TIFF's tag, whose last bit says that a page is a reduced copy
PREVIEWS = 16  # reduced copies of a TIFF's first page that are passed over

# For good: to switch them per picture is slow.
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"PIL\.")
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # per picture; there is a process per core already
for _order, _raw in ((b"II", "I;16"), (b"MM", "I;16B")):  # Pillow has the first one alone
    TiffImagePlugin.OPEN_INFO[_order, 0, (1,), 1, (16,), ()] = _raw, _raw


def decode(data: bytes) -> tuple[Image.Image, bool]:
    """Return the first frame of an image file, upright, and whether there are more.

    The further images of a camera's JPEG (MPO) or of a HEIC, and reduced copies in a TIFF, are no
    frames.

    Raises
    ------
    UserError
        The bytes are no image, a damaged one, or one of more than MAX_PIXELS.
    """
    if not data:
        raise UserError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UserError(f"{width}x{height} pixels; at most {MAX_PIXELS:,} are read")
        if image.format == "TIFF":
            _correct_planes(image)
        by_libtiff = any(tile[0] == "libtiff" for tile in image.tile)
        with silence() if by_libtiff else nullcontext():
            image.load()
        first = _full_range(image)
        # To ask a GIF would take its first frame away.
        several = image.format == "GIF" or getattr(image, "is_animated", False)
        if image.format in ("MPO", HEIF) or not several:
            ImageOps.exif_transpose(first, in_place=True)
            return first, False
        return ImageOps.exif_transpose(first), has_second_frame(image)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"a bomb: at most {MAX_PIXELS:,} pixels are read") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(_unidentified(data)) from error
    except Exception as error:  # a decoder may raise anything on a damaged file: struct.error, ...
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"damaged image: {cause}") from error


def decode_file(path: str | Path) -> tuple[Image.Image, bool]:
    """Return what `decode` does of a regular file of at most MAX_BYTES; errors without its name."""
    return decode(read_bytes(path, MAX_BYTES))


def _formats(data: bytes) -> tuple[str, ...]:
    """Return what Pillow is to try; a UserError for HEIC where its plugin is missing."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    brands = {brand}
    if brand in EITHER_BRANDS:
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[start : start + 4] for start in range(16, size, 4)}
    if not brands & HEIF_BRANDS:
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise UserError(
            "is a HEIC picture; save it as JPEG or PNG, or have it read: "
            "'.venv/bin/pip install --require-hashes -r requirements-heic.txt'"
        ) from None
    register_heif_opener()
    return (HEIF,)


def _unidentified(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "damaged image, or a HEIC or AVIF of a kind that is not read; save it as PNG"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF of a kind that is not read; save it in 8 or 16 bits, grey or RGB"
    return f"not an image of a kind that is read ({', '.join(FORMATS)}, HEIC)"


def has_second_frame(image: Image.Image) -> bool:
    """Tell whether an image has more than one frame, without counting them: a file can have 10⁶."""
    try:
        for frame in range(1, PREVIEWS):
            image.seek(frame)
            kind = image.tag_v2.get(SUBFILE_TYPE, 0) if image.format == "TIFF" else 0
            if not kind & 1:
                return True
    except Exception:  # whatever is wrong with it, the first frame has been read
        return False
    return True


def _correct_planes(image: TiffImagePlugin.TiffImageFile) -> None:
    """Have each channel of 16 bits read as such where it lies in a plane of its own.

    Pillow takes its bytes for pixels of 8 bits.
    """
    if set(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())) == {16}:
        order = "B" if image.tag_v2.prefix == b"MM" else "L"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            if tile.codec_name == "raw" and tile.args[0] in ("R", "G", "B", "A")
            else tile
            for tile in image.tile
        ]


def _full_range(image: Image.Image) -> Image.Image:
    """Return an image of more than 8 bits as 16 bits, 0 black and 65535 white; others as they are.

    Pillow leaves 12 bits of a TIFF as 0 to 4095, its WhiteIsZero in 16 bits as it is stored, and
    gives a PGM's 16 bits as 32.
    """
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode == "I" and image.format == "PPM":
        values = np.asarray(image)
    elif not image.mode.startswith("I;16"):
        return image
    elif tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
        values = np.asarray(image)
        values = values * 16 + values // 256
    elif tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        values = 65535 - np.asarray(image)
    else:
        return image
    return Image.fromarray(values.astype(np.uint16))


def to_pixels(
    image: Image.Image,
    sides: tuple[int, int] | None,
    channels: int | None,
    fit: str = "pad",
) -> NDArray[np.uint8]:
    """Return an image as uint8 (h, w, c).

    Parameters
    ----------
    sides : (h, w), to which it is resized; None keeps its own.
    channels : 1 for grey, 3 for colour; None for what it is.
    fit : one of FITS, how `sides` of other proportions are filled: "pad" shows the whole image, on
        a ground of its border's colour; "crop" its middle; "stretch" all of it, distorted.
    """
    if channels is None:
        channels = 1 if image.mode in GREY_MODES else 3
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255
        deep, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray(np.where(deep == clear, 255, deep // 257).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:  # Pillow would drop it; what is not there is white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if sides is not None:
        image = _resized(image, sides, fit)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(*image.size[::-1], channels)


def _resized(image: Image.Image, sides: tuple[int, int], fit: str) -> Image.Image:
    """Return an L or RGB image of `sides`, (h, w)."""
    # Pillow widens the filter when it shrinks an image, which keeps it from aliasing.
    resample = Image.Resampling.BILINEAR
    height, width = sides
    if fit == "stretch" or image.width * height == image.height * width:
        return image.resize((width, height), resample)
    if fit == "crop":
        scale = max(width / image.width, height / image.height)
        left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
        box = left, top, image.width - left, image.height - top
        return image.resize((width, height), resample, box)
    scale = min(width / image.width, height / image.height)
    w, h = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    padded = Image.new(image.mode, (width, height), _border_colour(image))
    padded.paste(image.resize((w, h), resample), ((width - w) // 2, (height - h) // 2))
    return padded


def _border_colour(image: Image.Image) -> tuple[int, ...]:
    """Return the median of an L or RGB image's outermost pixels, channel by channel."""
    w, h = image.size
    sides = (0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h)
    channels = len(image.mode)
    border = [np.asarray(image.crop(side)).reshape(-1, channels) for side in sides]
    return tuple(np.sort(np.concatenate(border), axis=0)[w + h].tolist())


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether (h, w, 3) pixels are grey, stored as colour."""
    return bool((pixels == pixels[..., :1]).all())


def read_picture(
    source: str | Path | bytes,
    sides: tuple[int, int] | None,
    channels: int | None,
    fit: str = "pad",
) -> NDArray[np.uint8]:
    """Return the picture in a file, or in the bytes of one, as `to_pixels` does.

    Raises
    ------
    UserError
        There is no picture that can be used; without the file's name.
    """
    image, more = decode(source) if isinstance(source, bytes) else decode_file(source)
    if more:
        raise UserError("has several frames; save each as a picture of its own")
    if image.mode not in MODES:
        raise UserError(f"has pixels of mode {image.mode}; save it in 8 or 16 bits, grey or RGB")
    if sides is None and max(image.size) > SIDES[1]:  # many such would fill the memory
        raise UserError(
            f"is larger than {SIDES[1]}x{SIDES[1]} pixels; set prepare.image_size to resize all"
        )
    return to_pixels(image, sides, channels, fit)
