"""What is given is read by its format; a format that is not read gets one line that helps."""

import os
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnn.data.readers import READERS, read

ROOT = Path(__file__).parent.parent


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cat/1.png", b"")


FOREIGN = {
    "array.npy": lambda path: np.save(path, np.zeros((3, 8, 8))),
    "keras.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
    "matlab.mat": lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(99)),
    "objects.pkl": lambda path: path.write_bytes(pickle.dumps({"x": 1})),
    "data.tfrecord": lambda path: path.write_bytes(bytes(99)),
    "no suffix": lambda path: path.write_bytes(b"text"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_format_that_is_not_read_is_one_line_that_leads_to_an_npz(tmp_path, refusal, name):
    FOREIGN[name](tmp_path / name)

    message = refusal(read, tmp_path / name)

    assert message.startswith(f"{tmp_path / name}: is a file of another kind (")
    assert "docs/own-data.md#anything-else" in message
    assert all(reader.name in message for reader in READERS)
    assert "repair" not in message


def test_the_three_lines_of_python_that_the_document_has_make_an_npz_that_is_read(
    tmp_path, monkeypatch
):
    text = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    lines = re.search(r"## Anything else\n.*?```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in lines.splitlines() if line]) == 3
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.full((4, 8, 8), 9, np.uint8))
    np.save("labels.npy", np.arange(4) % 2)

    exec(lines, {})

    assert len(read(tmp_path / "mine.npz").splits["train"].images) == 4


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("pictures.zip", archive, "is an archive (.zip); unpack it into a folder and name that"),
        ("a.tar", lambda path: tarfile.open(path, "w").close(), "is an archive (.tar); unpack"),
        ("empty.npz", lambda path: path.touch(), "is empty"),
        ("nothing", lambda path: None, "is not there; prepare.raw names a file or a folder"),
        ("pipe", os.mkfifo, "is neither a file nor a folder"),
        ("text.npz", lambda path: path.write_text("x"), "is damaged or no npz (no zip file)"),
        ("t.csv", lambda path: path.write_text("file,label\na.png,cat\n"), "name that folder"),
        ("b.csv", lambda path: path.write_bytes(b"\xff\xfe\0"), "is no text in UTF-8"),
        ("labels-idx1-ubyte", lambda path: path.write_text("x"), "is a file of another kind"),
        ("train-labels-idx1-ubyte", lambda path: path.write_text("x"), "is one of four IDX files"),
        ("folder", lambda path: path.mkdir(), "0 classes"),
    ],
)
def test_what_lacks_something_is_one_line_that_says_what(tmp_path, refusal, name, make, reason):
    make(tmp_path / name)

    message = refusal(read, tmp_path / name)

    assert message.startswith(f"{tmp_path / name}: ")
    assert reason in message


def test_a_folder_with_one_file_is_that_file(tmp_path):
    (tmp_path / ".DS_Store").touch()
    images, labels = np.full((6, 8, 8), 9, np.uint8), np.arange(6) % 2
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)

    assert len(read(tmp_path).splits["train"].labels) == 6
