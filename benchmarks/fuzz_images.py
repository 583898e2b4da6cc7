"""Read damaged image files by the thousand: each must give an image or one clear error.

    python -m benchmarks.fuzz_images [--files 10000] [--seed 0]

Good files of every kind that is read are cut, flipped, overwritten, repeated and spliced; a file
that raises anything but UserError, or takes longer than --seconds, is counted and named by its
number, from which it can be made again. Exit code 1 if there was one.
"""

import argparse
import io
import sys
import time
import traceback
from collections.abc import Iterator

import numpy as np
from PIL import Image

from cnn.errors import UserError, run
from cnn.pictures import decode
from handwriting.ink import to_mnist


def seeds() -> list[bytes]:
    """Return one small file with a digit on it for each format and mode that matters."""
    ink = np.full((40, 30), 230, dtype=np.uint8)
    ink[8:32, 13:17] = 20
    ink[8:12, 8:17] = 20
    grey = Image.fromarray(ink)
    kinds: list[tuple[Image.Image, dict[str, object]]] = [
        (grey.convert(mode), {"format": "PNG"}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    ]
    kinds += [(Image.fromarray(ink.astype(np.uint16) * 257), {"format": "PNG"})]
    kinds += [(grey.convert("CMYK"), {"format": "JPEG"}), (grey, {"format": "JPEG"})]
    kinds += [(grey, {"format": "JPEG", "progressive": True}), (grey, {"format": "BMP"})]
    kinds += [(grey.convert("P"), {"format": "GIF", "save_all": True, "append_images": [grey]})]
    kinds += [(grey, {"format": "WEBP"}), (grey.convert("RGBA"), {"format": "WEBP"})]
    kinds += [(Image.fromarray(ink / np.float32(255)), {"format": "TIFF"})]
    kinds += [(grey, {"format": "PPM"})]
    kinds += [
        (grey, {"format": "TIFF", "compression": how})
        for how in (None, "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg")
    ]
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds += [(grey, {"format": kind, "exif": exif}) for kind in ("JPEG", "PNG")]
    files = []
    for image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, **options)
        files.append(buffer.getvalue())
    return files


def damaged(number: int, good: list[bytes], seed: int) -> bytes:
    """Return the damaged file of a number: always the same one."""
    rng = np.random.default_rng([seed, number])
    data = bytearray(good[number % len(good)])
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(data)))
        if rng.random() < 0.5:  # most of what can go wrong is decided in the header
            place %= 64
        place = min(place, len(data) - 1)
        length = int(rng.integers(1, 9))
        match rng.integers(7):
            case 0:
                data[place] ^= 1 << int(rng.integers(8))
            case 1:
                data[place : place + length] = rng.bytes(length)
            case 2:
                data[place : place + length] = bytes([rng.choice([0, 0x7F, 0x80, 0xFF])]) * length
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + 16 * length]
            case 5:
                data = data[: max(1, place)] if rng.random() < 0.3 else data
            case 6:
                other = good[int(rng.integers(len(good)))]
                data[place:] = other[place:] if rng.random() < 0.3 else data[place:]
        data = data or bytearray(b"\0")
    return bytes(data)


def failures(files: int, seed: int, seconds: float) -> Iterator[tuple[int, str]]:
    """Yield the number of each file that crashed or hung, and how."""
    good = seeds()
    for number in range(files):
        data = damaged(number, good, seed)
        start = time.perf_counter()
        try:
            seen = to_mnist(decode(data)[0])
            if seen.shape != (28, 28) or seen.dtype != np.uint8 or not seen.any():
                yield number, f"gave {seen.dtype} {seen.shape}"
        except UserError as error:
            if not str(error) or "\n" in str(error):
                yield number, f"error of {str(error)!r}"
        except Exception:
            yield number, traceback.format_exc(limit=-2)
        if (took := time.perf_counter() - start) > seconds:
            yield number, f"took {took:.1f} s"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz_images", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="longer is a hang")
    arguments = parser.parse_args(argv)
    count = 0
    for number, how in failures(arguments.files, arguments.seed, arguments.seconds):
        count += 1
        print(f"file {number}: {how}", file=sys.stderr)
    print(f"{arguments.files:,} damaged files, seed {arguments.seed}: {count} crashes or hangs")
    return int(bool(count))


if __name__ == "__main__":
    raise SystemExit(run(main))
