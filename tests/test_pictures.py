"""Image files of strangers: decoded upright and within bounds, made into pixels as they look."""

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageDraw, TiffImagePlugin

from cnn.base.errors import UserError
from cnn.data import pictures
from cnn.data.pictures import (
    FITS,
    GREY_MODES,
    MAX_PIXELS,
    MODES,
    decode,
    decode_file,
    is_grey,
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


def pixels_in(data: bytes) -> np.ndarray:
    """Return the pixels of a file's bytes, as prepare and predict read them."""
    return read_picture(data, None, None)


@pytest.mark.parametrize("given", [GREY, COLOUR])
def test_grey_and_colour_come_back_to_the_bit(tmp_path, given):
    Image.fromarray(given).save(tmp_path / "a.png")

    pixels = read_picture(tmp_path / "a.png", None, None)

    assert np.array_equal(pixels, given.reshape(6, 9, -1))
    assert np.array_equal(pixels, pixels_in((tmp_path / "a.png").read_bytes()))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_several_frames_are_refused(kind, refusal):
    first = Image.fromarray(COLOUR)
    data = saved(first, kind, save_all=True, append_images=[first.rotate(180)])

    assert refusal(pixels_in, data) == "has several frames; save each as a picture of its own"
    assert pixels_in(saved(first, kind)).shape == (6, 9, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_what_has_no_range_to_scale_is_refused(dtype, refusal):
    data = saved(Image.fromarray(np.ones((6, 9), dtype)), "TIFF")

    line = refusal(pixels_in, data)

    mode = "F" if dtype == np.float32 else "I"
    assert line == f"has pixels of mode {mode}; save it in 8 or 16 bits, grey or RGB"


def test_a_cameras_jpeg_is_its_first_picture():
    """Such a file, an MPO, holds a preview or another view behind it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    scene = Image.new("RGB", (32, 16), (200, 90, 30))
    data = saved(scene, "MPO", save_all=True, append_images=[scene.resize((8, 4))], exif=exif)
    assert Image.open(io.BytesIO(data)).n_frames == 2

    pixels = pixels_in(data)

    assert pixels.shape == (32, 16, 3)
    assert np.abs(pixels.astype(int) - (200, 90, 30)).max() < 6


def test_avif_is_read_whatever_its_name_says(tmp_path):
    Image.new("RGB", (32, 16), (200, 90, 30)).save(tmp_path / "a.avif", quality=95)
    (tmp_path / "a.avif").rename(tmp_path / "a.jpg")

    pixels = read_picture(tmp_path / "a.jpg", None, None)

    assert np.abs(pixels.astype(int) - (200, 90, 30)).max() < 6


HEIC_HEADS = [b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"]


@pytest.mark.parametrize("head", HEIC_HEADS)
def test_heic_without_its_plugin_is_one_line_that_names_both_ways(head, refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # to import it raises

    line = refusal(pixels_in, head + bytes(100))

    assert line.startswith("is a HEIC picture; save it as JPEG or PNG")
    assert "requirements-heic.txt" in line


def test_heic_is_read_by_its_plugin(refusal):
    heif = pytest.importorskip("pillow_heif")
    scene = Image.new("RGB", (32, 16), (200, 90, 30))
    file = heif.from_pillow(scene)
    file.add_from_pillow(scene.resize((16, 16)))
    buffer = io.BytesIO()
    file.save(buffer, quality=95)

    pixels = pixels_in(buffer.getvalue())

    assert pixels.shape == (16, 32, 3)
    assert np.abs(pixels.astype(int) - (200, 90, 30)).max() < 6
    assert refusal(pixels_in, HEIC_HEADS[0] + bytes(100)).startswith("damaged image")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_as_many_channels_as_it_is_grey_or_in_colour_or_as_is_asked(mode: str):
    image = Image.new(mode, (9, 6))
    channels = 1 if mode in GREY_MODES else 3
    for asked, given in [(None, channels), (1, 1), (3, 3)]:
        pixels = to_pixels(image, None, asked)
        assert pixels.shape == (6, 9, given)
        assert pixels.dtype == np.uint8


DEEP = np.linspace(0, 65535, 54).round().astype(np.uint16).reshape(6, 9)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_16_bits_are_scaled_and_not_clipped(kind):
    pixels = pixels_in(saved(Image.fromarray(DEEP), kind))[..., 0]

    assert np.array_equal(pixels, DEEP // 257)
    swapped = Image.frombytes("I;16B", (9, 6), DEEP.astype(">u2").tobytes())
    assert np.array_equal(to_pixels(swapped, None, 3), np.dstack([pixels] * 3))


@pytest.mark.parametrize("most", [100, 1023, 4095, 65535])
def test_a_pgm_or_ppm_of_any_depth_reaches_from_black_to_white(most):
    values = np.linspace(0, most, 54).round().astype(">u2" if most > 255 else np.uint8)
    expected = 255 * values.reshape(6, 9).astype(float) / most

    grey = pixels_in(b"P5 9 6 %d\n" % most + values.tobytes())[..., 0]
    colour = pixels_in(b"P6 9 6 %d\n" % most + np.repeat(values, 3).tobytes())

    for pixels in (grey, *np.moveaxis(colour, 2, 0)):
        assert np.abs(pixels - expected).max() < 1
        assert (pixels.min(), pixels.max()) == (0, 255)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Return an RGB PNG of uint16 (h, w, 3), which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">LLBBBBB", *values.shape[1::-1], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def tiff(
    values: np.ndarray, photometric: int, bits: int, order: str = "<", planes: bool = False
) -> bytes:
    """Return a TIFF of whole numbers (h, w) or (h, w, 3), as cameras of microscopes write them.

    photometric : tag 262: 0 white is zero, 1 black is zero, 2 colour.
    order : "<" or ">", of the bytes; planes : whether each channel is stored apart.
    """
    height, width = values.shape[:2]
    samples = values.size // (height * width)
    strips = np.moveaxis(values, -1, 0) if planes else values[None]
    if bits == 12:
        text = "".join(f"{value:012b}" for value in values.ravel())
        parts = [int(text, 2).to_bytes(len(text) // 8, "big")]
    else:
        parts = [strip.astype(f"{order}u{bits // 8}").tobytes() for strip in strips]
    starts = np.cumsum([8, *map(len, parts)])[:-1].tolist()
    after = 8 + sum(map(len, parts))
    extra = b""

    def entry(tag: int, kind: int, *given: int) -> bytes:
        nonlocal extra
        content = struct.pack(f"{order}{len(given)}{'HL'[kind - 3]}", *given)
        if len(content) > 4:  # then it stands elsewhere
            extra, content = extra + content, struct.pack(f"{order}L", after + len(extra))
        return struct.pack(f"{order}HHL", tag, kind, len(given)) + content.ljust(4, b"\0")

    entries = [
        entry(256, 3, width),
        entry(257, 3, height),
        entry(258, 3, *[bits] * samples),
        entry(259, 3, 1),
        entry(262, 3, photometric),
        entry(273, 4, *starts),
        entry(277, 3, samples),
        entry(278, 3, height),
        entry(279, 4, *map(len, parts)),
        entry(284, 3, 2 if planes else 1),
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", after + len(extra))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return head + b"".join(parts) + extra + directory


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_turned_round_at_every_depth(bits, order):
    values = np.arange(54).reshape(6, 9) * (2**bits - 1) // 53
    as_seen = pixels_in(tiff(values, 1, bits, order))

    inverted = pixels_in(tiff(2**bits - 1 - values, 0, bits, order))

    assert (as_seen[0, 0, 0], as_seen[-1, -1, 0]) == (0, 255)
    assert np.array_equal(inverted, as_seen)


def test_white_is_zero_that_is_compressed_is_turned_round_too():
    """Pillow reads such a file through libtiff."""
    tags = {262: 0}
    data = saved(Image.fromarray(65535 - DEEP), "TIFF", compression="tiff_lzw", tiffinfo=tags)
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0

    assert np.array_equal(pixels_in(data)[..., 0], DEEP // 257)


def test_12_bits_of_a_tiff_reach_from_black_to_white():
    values = np.linspace(0, 4095, 60).round().astype(int).reshape(6, 10)

    pixels = pixels_in(tiff(values, 1, 12))[..., 0]

    assert np.abs(pixels - values * 255 / 4095).max() < 1
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_16_bits_of_colour_are_those_of_each_channel(order, planes):
    deep = COLOUR.astype(np.uint16) * 257
    assert np.array_equal(pixels_in(tiff(deep, 2, 16, order, planes)), COLOUR)
    assert np.array_equal(pixels_in(tiff(COLOUR, 2, 8, order, planes)), COLOUR)
    assert np.array_equal(pixels_in(png_of_16_bits(deep)), COLOUR)


def test_a_tiff_of_another_form_is_called_one(refusal):
    five = np.dstack([GREY] * 5)
    assert refusal(pixels_in, tiff(five, 1, 8)).startswith("a TIFF of a kind that is not read")


def test_a_reduced_copy_in_a_tiff_is_no_frame():
    copy = Image.fromarray(GREY[::2, ::2])
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    data = saved(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[copy])
    assert Image.open(io.BytesIO(data)).n_frames == 2

    assert np.array_equal(pixels_in(data)[..., 0], GREY)


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
    small = to_pixels(Image.fromarray(lines), (16, 16), None, "stretch")
    assert small.shape == (16, 16, 1)
    assert np.abs(small[:, 1:-1].astype(float) - 127.5).max() < 8  # each other pixel would be black


def test_an_image_is_made_larger_without_steps():
    ramp = np.tile(np.uint8([0, 255]), (2, 1))
    large = to_pixels(Image.fromarray(ramp), (8, 9), 3)
    assert large.shape == (8, 9, 3)
    assert len(np.unique(large)) > 4


def ellipse(width: int, height: int) -> Image.Image:
    """Return a white ellipse that fills a dark picture."""
    image = Image.new("L", (width, height), 40)
    ImageDraw.Draw(image).ellipse((0, 0, width - 1, height - 1), fill=250)
    return image


def test_pad_keeps_the_proportions_on_a_ground_of_the_borders_colour():
    pixels = to_pixels(ellipse(90, 30), (28, 28), None, "pad")[..., 0]

    assert (pixels[:9] == 40).all() and (pixels[-9:] == 40).all()  # 28 x 9 pixels in the middle
    assert (pixels[13:15, 2:-2] > 200).all()
    upright = to_pixels(ellipse(30, 90), (28, 28), None, "pad")[..., 0]
    assert np.abs(upright.T.astype(int) - pixels).max() <= 1


def test_pad_takes_the_border_channel_by_channel_and_no_speck_on_it():
    image = Image.new("RGB", (60, 20), (10, 200, 90))
    image.paste((255, 255, 255), (0, 0, 9, 9))

    pixels = to_pixels(image, (30, 30), None, "pad")

    assert (pixels[:10] == (10, 200, 90)).all() and (pixels[20:] == (10, 200, 90)).all()
    assert (pixels[10, 0] > 250).all()


def test_a_line_is_padded_and_does_not_vanish():
    pixels = to_pixels(Image.new("L", (2000, 3), 255), (28, 28), None, "pad")
    assert pixels.shape == (28, 28, 1)
    assert (pixels == 255).all()


def test_crop_is_the_middle_of_the_longer_side():
    thirds = Image.new("RGB", (90, 30), "red")
    thirds.paste((0, 255, 0), (30, 0, 60, 30))
    for image in (thirds, thirds.rotate(90, expand=True)):
        pixels = to_pixels(image, (10, 10), None, "crop")
        assert (pixels[1:-1, 1:-1] == (0, 255, 0)).all()
        assert pixels[..., 1].min() > 200  # at the edge the filter takes some of what is beyond


def test_stretch_fills_the_square_with_the_whole():
    pixels = to_pixels(ellipse(90, 30), (28, 28), None, "stretch")[..., 0]
    square = to_pixels(ellipse(90, 90), (28, 28), None, "stretch")[..., 0]
    assert np.abs(pixels.astype(int) - square).mean() < 9


def test_a_square_is_the_same_to_the_bit_however_it_is_fitted():
    image = Image.fromarray(RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8))
    plain = np.asarray(image.resize((28, 28), Image.Resampling.BILINEAR))
    for fit in FITS:
        assert np.array_equal(to_pixels(image, (28, 28), 3, fit), plain)


def test_grey_that_is_stored_as_colour_is_recognized():
    grey = Image.fromarray(GREY)
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        image = grey.convert("RGB") if kind == "PNG" else grey
        assert is_grey(pixels_in(saved(image, kind, **options)))
    almost = np.dstack([GREY] * 3)
    almost[5, 8, 1] ^= 1
    assert not is_grey(almost)


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
    with mock.patch.object(
        TiffImagePlugin.TiffImageFile, "n_frames", new_callable=mock.PropertyMock
    ) as frames:
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


def test_pictures_too_large_to_be_taken_as_they_are_are_refused_one_by_one(refusal):
    data = saved(Image.new("L", (257, 20)))
    line = "is larger than 256x256 pixels; set prepare.image_size to resize all"
    assert refusal(read_picture, data, None, None) == line
    assert read_picture(data, (20, 20), None).shape == (20, 20, 1)


def test_what_libtiff_prints_is_hidden_and_standard_error_is_as_it_was(capfd, refusal):
    data = saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw")
    assert np.array_equal(pixels_in(data)[..., 0], DEEP // 257)
    refusal(decode, data[: len(data) // 2])
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"
