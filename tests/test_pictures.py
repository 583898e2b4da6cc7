"""Image files of strangers: decoded upright and within bounds, made into pixels as they look."""

import io
import os
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from cnn.base.errors import UserError
from cnn.data import pictures
from cnn.data.pictures import (
    GREY_MODES,
    MAX_PIXELS,
    MODES,
    decode,
    decode_file,
    read_picture,
    to_pixels,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def through(image: Image.Image, kind: str = "PNG", **options) -> Image.Image:
    """Return an image as it comes back from a file."""
    return decode(saved(image, kind, **options))[0]


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("given", "depth"), [(GREY, 1), (COLOUR, 3)])
def test_grey_and_colour_come_back_to_the_bit(tmp_path, given, depth):
    Image.fromarray(given).save(tmp_path / "a.png")

    pixels, found = read_picture(tmp_path / "a.png", None, None)

    assert np.array_equal(pixels, given.reshape(6, 9, depth))
    assert found == depth


def test_several_frames_and_floats_are_refused(tmp_path, refusal):
    first = Image.fromarray(GREY)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("L", (9, 6))])
    Image.fromarray(np.ones((6, 9), np.float32)).save(tmp_path / "float.tiff")

    assert refusal(read_picture, tmp_path / "moving.gif", None, 1).startswith("has several frames")
    assert refusal(read_picture, tmp_path / "float.tiff", None, 1).startswith(
        "has pixels of mode F; save it in 8 bits"
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_as_many_channels_as_it_is_grey_or_in_colour_or_as_is_asked(mode: str):
    image = Image.new(mode, (9, 6))
    channels = 1 if mode in GREY_MODES else 3
    for asked, given in [(None, channels), (1, 1), (3, 3)]:
        pixels = to_pixels(image, None, asked)
        assert pixels.shape == (6, 9, given)
        assert pixels.dtype == np.uint8


def test_grey_16_bits_are_scaled_and_not_clipped():
    deep = np.linspace(0, 65535, 54).round().astype(np.uint16).reshape(6, 9)
    for kind in ("PNG", "TIFF"):
        image = through(Image.fromarray(deep), kind)
        pixels = to_pixels(image, None, None)[..., 0]
        assert np.abs(pixels - deep / 257).max() <= 1
        assert (pixels.min(), pixels.max()) == (0, 255)
    swapped = Image.frombytes("I;16B", (9, 6), deep.astype(">u2").tobytes())
    assert np.array_equal(to_pixels(swapped, None, 3), to_pixels(image, None, 3))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_and_half_transparent_ones_lighter(mode: str):
    image = Image.new(mode, (3, 1))
    *black, _ = image.getpixel((0, 0))
    for column, alpha in enumerate((0, 128, 255)):
        image.putpixel((column, 0), (*black, alpha))
    assert to_pixels(through(image), None, 1).ravel().tolist() == [255, 127, 0]


def test_a_colour_that_stands_for_transparent_becomes_white():
    grey = through(Image.fromarray(np.uint8([[0, 90, 200]])), transparency=90)
    assert to_pixels(grey, None, None)[..., 0].tolist() == [[0, 255, 200]]
    palette = Image.new("P", (3, 1))
    palette.putdata([0, 1, 2])
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette = through(palette, transparency=1)
    assert to_pixels(palette, None, 3).tolist() == [[[10, 20, 30], [255] * 3, [70, 80, 90]]]


def test_a_palette_is_looked_up():
    """The numbers in a palette say nothing about brightness."""
    coarse = COLOUR // 128 * 255  # eight colours
    image = through(Image.fromarray(coarse).convert("P", palette=Image.Palette.ADAPTIVE), "GIF")
    assert image.mode == "P"
    assert np.array_equal(to_pixels(image, None, None), coarse)


def test_cmyk_and_ycbcr_come_out_as_the_colours_that_they_show():
    red = Image.new("RGB", (16, 16), (230, 40, 30))
    for mode in ("CMYK", "YCbCr"):
        pixels = to_pixels(through(red.convert(mode), "JPEG", quality=95), None, None)
        assert np.abs(pixels.astype(int) - (230, 40, 30)).max() < 6


def test_colour_becomes_grey_by_its_brightness_and_grey_becomes_colour():
    bars = Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]]))
    assert to_pixels(bars, None, 1).ravel().tolist() == [76, 150, 29, 9]
    for channel in np.moveaxis(to_pixels(Image.fromarray(GREY), None, 3), 2, 0):
        assert np.array_equal(channel, GREY)


def test_an_image_is_made_smaller_without_aliasing():
    lines = np.tile(np.uint8([0, 255]), (64, 64))  # 128 columns, black and white in turn
    small = to_pixels(Image.fromarray(lines), (16, 16), None)
    assert small.shape == (16, 16, 1)
    assert np.abs(small[:, 1:-1].astype(float) - 127.5).max() < 8  # each other pixel would be black


def test_an_image_is_made_larger_without_steps():
    ramp = np.tile(np.uint8([0, 255]), (2, 1))
    large = to_pixels(Image.fromarray(ramp), (8, 9), 3)
    assert large.shape == (8, 9, 3)
    assert len(np.unique(large)) > 4


def test_16_bits_and_transparency_survive_a_resize():
    deep = Image.fromarray(np.full((40, 40), 30_000, np.uint16))
    assert np.unique(to_pixels(deep, (9, 9), None)).tolist() == [30_000 // 257]
    assert np.unique(to_pixels(Image.new("RGBA", (40, 40)), (9, 9), None)).tolist() == [255]


def test_exif_orientation_is_followed():
    upright = Image.fromarray(GREY)
    turns = {1: 0, 3: 180, 6: 90, 8: 270}  # how the camera was held: how its pixels lie
    for orientation, angle in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        given = through(upright.rotate(angle, expand=True), exif=exif)
        assert np.array_equal(np.asarray(given), GREY)


def test_frames_are_not_counted():
    first = Image.fromarray(GREY)
    data = saved(first, "TIFF", save_all=True, append_images=[first] * 2)
    image, more = decode(data)
    assert more and np.array_equal(np.asarray(image), GREY)
    assert not decode(saved(first, "TIFF"))[1]
    with mock.patch.object(TiffImageFile, "n_frames", new_callable=mock.PropertyMock) as frames:
        decode(data)
    frames.assert_not_called()


def test_too_many_pixels_are_refused_before_they_are_decoded():
    data = saved(Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)))
    cut = data[:60]  # decoding this would say that it is cut off
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="16001x1000 pixels; at most 16,000,000"):
            decode(cut)


@pytest.mark.parametrize("data", [b"", b"a text\n", b"<svg xmlns='x'/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data: bytes, refusal):
    refusal(decode, data)


def test_only_regular_files_up_to_a_size_are_opened(tmp_path: Path, refusal, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "loop", Path("a\0b")):
        refusal(decode_file, path)
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(GREY)))
    size = (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr(pictures, "MAX_BYTES", size)
    decode_file(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_BYTES", size - 1)
    assert refusal(decode_file, tmp_path / "a.png") == f"{size} bytes; at most {size - 1} are read"
