"""Model files for predict, draw and evaluate: damaged, hostile or much too large."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cnn.data.sets import Data
from cnn.model import archive
from handwriting import draw, predict
from stages import evaluate
from tests.faults.common import Ended, Fault, Given, called, damaged, refused
from tests.helpers.model_files import HOSTILE, MNIST, members, written
from tools import predict as tools_predict


def tries(given: Given, full: bool, rng: np.random.Generator) -> Iterator[Fault]:
    path = given.folder / "model.keras"
    whole = written(path).read_bytes()
    Image.fromarray(np.uint8(np.eye(28) * 255)).save(given.folder / "digit.png")
    about = {"height": 28, "width": 28, "channels": 1, "images_by_class": dict.fromkeys(range(10))}
    (given.folder / "data.json").write_text(json.dumps(about))
    programs = _programs(given.folder, path)
    for name in programs.keys() - {"handwriting.draw"}:  # which would serve it
        ended = programs[name]()
        yield Fault(f"{name}: one that is right", "" if ended == (0, "") else ended.errors)
    for what, content in damaged(whole, 200 if full else 40, rng):
        path.write_bytes(content)
        found: list = []
        ended = called(
            lambda _, found=found: found.extend(archive.read(path, MNIST, 10).weights), []
        )
        # Bits may differ between the members.
        same = not ended.code and members(content) == members(whole)
        yield Fault(what, "" if same else refused(ended, path))
    for what, (make, _) in HOSTILE.items():
        path.write_bytes(make(whole))
        for name, program in programs.items():
            yield Fault(f"{name}: {what}", refused(program(), path))
    for what in ("a folder", "nothing"):
        path.unlink() if path.is_file() else path.rmdir()
        if what == "a folder":
            path.mkdir()
        for name, program in programs.items():
            yield Fault(f"{name}: {what}", refused(program(), path))
    imported = {"tensorflow", "keras"} & set(sys.modules)
    yield Fault("none of them imports TensorFlow", f"{imported} were" if imported else "")


def _programs(folder: Path, path: Path) -> dict[str, Callable[[], Ended]]:
    """Return {name: how to call it} of all that reads the model at `path`."""
    digit, model = str(folder / "digit.png"), f"--model={path}"
    images = Data(np.zeros((3, 28, 28, 1), np.float32), np.arange(3), np.arange(10).astype(str))
    return {
        "handwriting.predict": lambda: called(predict.main, [digit, model]),
        "handwriting.draw": lambda: called(draw.main, [model, "--port=0"]),
        "tools.predict": lambda: called(
            tools_predict.main, [digit, model, f"--data={folder}/data.json"]
        ),
        "evaluate": lambda: called(lambda _: print(evaluate.predict(images, path, "exact")), []),
    }
