"""Files that are read: damaged, of another form, or something else altogether."""

import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from cnn import data, npz, resume
from cnn.errors import UserError
from handwriting.predict import read_digit
from stages import prepare, report, train
from tests.faults.common import Fault, Given, called, damaged, refused


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    folder = given.folder / "inputs"
    called(prepare.main, given.prepare(given.folder / "mnist/mnist.npz", folder))
    flips = 200 if full else 20
    yield from _damaged(given, folder, flips, rng)
    yield from _of_another_form(given, folder)
    yield from _kept_states(given, folder, 20 if full else 2, rng)
    yield from _images(folder, flips, rng)


def _damaged(given: Given, folder: Path, flips: int, rng: np.random.Generator) -> Iterator[Fault]:
    """What is read is what was written, to the bit, or is refused."""
    paths = [given.folder / "mnist/mnist.npz"]
    paths += [folder / f"{split}.npz" for split in ("train", "validation", "test")]
    probabilities = np.full((100, 10), 0.1, np.float32)
    names = {"classes": np.arange(10).astype(str), "images": np.array(["0" * 16] * 100)}
    npz.write_arrays(folder / "predictions.npz", probabilities=probabilities, **names)
    for path in [*paths, folder / "predictions.npz"]:
        with np.load(path) as arrays:
            whole = {name: arrays[name] for name in arrays}
        broken = folder / "broken.npz"
        for what, content in damaged(path.read_bytes(), flips, rng):
            broken.write_bytes(content)
            found: list = []

            def read(_: object, names=tuple(whole), broken=broken, found=found) -> None:
                found += npz.read_arrays(broken, names)

            ended = called(read, [])
            same = len(found) == len(whole) and all(
                a.dtype == b.dtype and np.array_equal(a, b)
                for a, b in zip(found, whole.values(), strict=True)
            )
            yield Fault(f"{path.name}, {what}", "" if same else refused(ended, broken))


def _arrays(folder: Path, **arrays: object) -> Path:
    path = folder / "form.npz"
    np.savez(path, **arrays)
    return path


def _of_another_form(given: Given, folder: Path) -> Iterator[Fault]:
    """Through the stages' own `main`."""
    raw, whole = given.raw, data.load(folder / "train.npz")
    images, labels, classes = whole
    bad_pixel = images.copy()
    bad_pixel[3, 4, 5] = np.nan
    odd = {
        "images float64": {"images": images.astype(float)},
        "images of a channel too few": {"images": images[..., 0]},
        "images of two channels": {"images": np.repeat(images, 2, axis=3)},
        "no image": {"images": images[:0], "labels": labels[:0]},
        "a NaN": {"images": bad_pixel},
        "pixels to 255": {"images": images * 255},
        "a negative pixel": {"images": images - np.float32(0.01)},
        "labels int32": {"labels": labels.astype(np.int32)},
        "one label less": {"labels": labels[:-1]},
        "a label too great": {"labels": labels + 1},
        "a negative label": {"labels": labels - 1},
        "classes of bytes": {"classes": classes.astype(bytes)},
        "a class twice": {"classes": np.array(["1"] * 10)},
        "objects": {"images": np.array([{"a": 1}] * 3, dtype=object)},
        "images too large": {"images": np.zeros((1, 300, 8, 1), np.float32), "labels": labels[:1]},
    }
    out = [f"--{name}={folder / name}" for name in ("model", "history", "environment")]
    for what, changed in odd.items():
        path = _arrays(folder, **(whole._asdict() | changed))
        words = [f"--params={given.params_yaml}", f"--train={path}", f"--validation={path}", *out]
        yield Fault(f"train.npz: {what}", refused(called(train.main, words), path))
    params = given.params | {"train": given.params["train"] | {"filters": [8] * 5}}
    deep = folder / "deep.yaml"
    deep.write_text(yaml.safe_dump(params))
    parts = [f"--{part}={folder / part}.npz" for part in ("train", "validation")]
    ended = called(train.main, [f"--params={deep}", *parts, *out])
    yield Fault("train: more poolings than the images bear", refused(ended, deep, "train.filters"))
    odd = {
        "images int32": {"x_train": raw["x_train"].astype(np.int32)},
        "floats to 300": {"x_train": raw["x_train"] * 1.5},
        "a NaN": {"x_train": np.full((300, 28, 28), np.nan)},
        "images of one dimension": {"x_train": raw["x_train"].ravel()},
        "labels of floats": {"y_train": raw["y_train"].astype(float)},
        "labels one-hot": {"y_train": np.eye(10)[raw["y_train"]]},
        "more labels": {"y_train": np.append(raw["y_train"], 1)},
        "one class": {"y_train": raw["y_train"] * 0},
        "a gap": {"y_train": np.where(raw["y_train"] == 5, 6, raw["y_train"])},
        "labels to 255": {"y_train": raw["y_train"] + np.uint8(246)},
        "other test images": {"x_test": raw["x_test"][:, :20]},
        "objects": {"x_train": np.array([None] * 3, dtype=object)},
        "no images": {"x_train": raw["x_train"][:0], "y_train": raw["y_train"][:0]},
    }
    for what, changed in odd.items():
        path = _arrays(folder, **(raw | changed))
        ended = called(prepare.main, given.prepare(path, folder / "out"))
        yield Fault(f"raw npz: {what}", refused(ended, path))
    texts = {
        "a page of HTML": b"<!doctype html><title>404</title>" * 100,
        "a pickle": pickle.dumps(raw),
        "an array": _bytes(np.save, raw["x_train"]),
        "an empty zip": b"PK\5\6" + bytes(18),
    }
    path = folder / "text.npz"
    for what, content in texts.items():
        path.write_bytes(content)
        for main, words in (
            (prepare.main, given.prepare(path, folder / "out")),
            (train.main, [f"--params={given.params_yaml}", f"--train={path}",
                          f"--validation={path}", *out]),
            (report.main, [f"--predictions={path}", *(f"--{name}={path}" for name in (
                "data", "environment", "metrics", "scores", "per-class", "pictures", "rows",
                "card"))]),
        ):  # fmt: skip
            yield Fault(f"{main.__module__}: {what}", refused(called(main, words), path))
    left = [each.name for each in folder.iterdir() if each.name in ("out", "model", "history")]
    yield Fault("none of them left an output", f"{left}" if left else "")


def _kept_states(
    given: Given, folder: Path, flips: int, rng: np.random.Generator
) -> Iterator[Fault]:
    """A state that cannot be gone on from is passed over in a note; the model is the same."""
    model = folder / "cnn.keras"
    words = [f"--params={given.params_yaml}", f"--train={folder / 'train.npz'}",
             f"--validation={folder / 'validation.npz'}", f"--model={model}",
             f"--history={folder / 'training.csv'}",
             f"--environment={folder / 'environment.json'}"]  # fmt: skip
    called(train.main, words)
    right, kept = model.read_bytes(), resume.path_beside(model)
    state = resume.State(1, 32, 0.5, 7, [], [np.zeros(9, np.float32)] * 3)
    another = resume.pack(state, {"train.seed": "1"})
    for what, content in [("another's", another), *damaged(another, flips, rng)]:
        kept.write_bytes(content)
        ended = called(train.main, words)
        told = ended.errors.startswith(f"note: {kept}: ") and ended.errors.count("\n") == 1
        same = not ended.code and told and model.read_bytes() == right and not kept.exists()
        yield Fault(f"a kept state, {what}", "" if same else str(ended))


def _bytes(save, array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, array)
    return stream.getvalue()


def _images(folder: Path, flips: int, rng: np.random.Generator) -> Iterator[Fault]:
    """A person's picture: read, whatever it shows then, or refused in a line."""
    pixels = np.full((60, 60), 255, np.uint8)
    pixels[10:50, 28:32] = 20
    path = folder / "picture"
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        for what, content in damaged(stream.getvalue(), flips, rng):
            path.write_bytes(content)
            try:
                seen = read_digit(path)[0]
                problem = "" if seen.shape == (28, 28) else f"gave {seen.shape}"
            except UserError as error:
                problem = repr(error) if "\n" in str(error) or not str(error) else ""
            except Exception as error:
                problem = repr(error)
            yield Fault(f"{kind}, {what}", problem)
