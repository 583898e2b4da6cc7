"""Parquet files of pictures are read as Hugging Face's `datasets` writes them."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from cnn.data.readers import read

NAMES = ["zero", "one", "two"]
# What datasets 5.2.0 puts into the schema; and so have all since 1.18.
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": NAMES, "_type": "ClassLabel"},
}


@pytest.fixture
def arrow():
    return pytest.importorskip("pyarrow", reason="requirements-dev.txt brings it")


def png(value) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (9, 8), value).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def write(tmp_path, arrow):
    """Write pictures, of value 10 n, with labels; return the folder."""
    from pyarrow import parquet

    def call(name="data/train-00000-of-00001.parquet", labels=(0, 1, 2, 0, 1, 2), **changed):
        images = [{"bytes": png(10 * n), "path": f"{n}.png"} for n in range(len(labels))]
        columns = {"image": images, "label": list(labels)} | changed
        features = {name: each for name, each in FEATURES.items() if name in columns}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        if changed.get("label"):
            metadata = {}
        table = arrow.table({name: each for name, each in columns.items() if each is not None})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)
        return tmp_path

    return call


def test_splits_come_from_the_names_of_files_and_classes_from_the_metadata(write):
    write()
    write("data/train-00001-of-00002.parquet", (2, 2))
    write("data/validation-00000-of-00001.parquet", (1, 0))
    path = write("data/test-00000-of-00001.parquet", (2, 1, 0))

    raw = read(path)

    assert raw.classes == NAMES
    assert raw.splits["train"].labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 2]
    assert raw.splits["train"].images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 0, 10]
    assert raw.splits["train"].images.shape == (8, 8, 9, 1)
    assert raw.splits["validation"].labels.tolist() == [1, 0]
    assert raw.splits["test"].labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("form", ["a file", "bytes", "texts", "one other column", "default/train"])
def test_other_forms_give_the_same(write, form):
    changed = {
        "bytes": {"image": [png(10 * n) for n in range(6)]},
        "texts": {"label": [NAMES[n % 3] for n in range(6)], "id": list("abcdef")},
        "one other column": {"label": None, "cipher": [NAMES[n % 3] for n in range(6)]},
    }
    name = "default/train/0000.parquet" if form == "default/train" else "mine.parquet"
    path = write(name, **changed.get(form, {}))

    raw = read(path / name if form == "a file" else path)

    assert raw.splits["train"].images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    found = [raw.classes[label] for label in raw.splits["train"].labels]
    assert found == [NAMES[n % 3] for n in range(6)]


def test_groups_are_a_column_and_labels_that_hugging_face_hides_are_left_out(write):
    write(writer=list("aabbcc"))
    path = write("data/test-00000-of-00001.parquet", (-1, -1), writer=["d", "d"])

    raw = read(path)

    assert raw.splits["train"].groups.tolist() == list("aabbcc")
    assert (list(raw.splits), raw.notes) == (["train"], [
        "test: 2 pictures without a label; left out"
    ])  # fmt: skip


BAD = [
    ({"image": [None] * 6}, "columns of pictures among"),
    (
        {"image": [{"bytes": None, "path": "a"}] + [{"bytes": b"1", "path": "a"}] * 5},
        "row 0 has no",
    ),
    ({"image": [b"x"] * 6}, "row 0, "),
    ({"label": None}, "which of the columns image has the labels?"),
    ({"label": None, "a": list("abcabc"), "b": list("abcabc")}, "which of the columns image, a, b"),
    ({"label": [0, None, 1, 0, 1, 2]}, "row 1 has no label"),
    ({"labels": (0, 1, 7, 0, 1, 2)}, "has the label 7; its 3 names count from 0"),
]


@pytest.mark.parametrize(("changed", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_what_cannot_be_used_is_one_line(write, refusal, changed, reason):
    message = refusal(read, write(**changed))

    assert reason in message


def test_several_data_sets_and_damage_are_one_line(write, refusal):
    write("one/train-0.parquet")
    path = write("two/train-0.parquet")
    several = refusal(read, path)
    (path / "two/train-0.parquet").unlink()
    file = path / "one/train-0.parquet"
    file.write_bytes(file.read_bytes()[:-50])

    assert "has several data sets, one, two; name one of them" in several
    assert refusal(read, path).startswith(f"{path}: is damaged or no Parquet: ")


def test_without_pyarrow_one_line_names_it(tmp_path, refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")

    message = refusal(read, tmp_path / "a.parquet")

    assert "'.venv/bin/pip install --require-hashes -r requirements-parquet.txt'" in message


def test_memory_holds_some_rows_at_a_time(write, monkeypatch):
    """Of each file the labels, and BATCH pictures."""
    from cnn.data import parquet

    monkeypatch.setattr(parquet, "BATCH", 2)

    images = read(write(labels=np.arange(9) % 3)).splits["train"].images

    assert images[:, 0, 0, 0].tolist() == [10 * n for n in range(9)]
