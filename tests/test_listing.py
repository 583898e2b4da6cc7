"""A table of file names and labels is read with the pictures that it names."""

import numpy as np
import pytest
from PIL import Image

from cnn.data.readers import read


@pytest.fixture
def folder(tmp_path):
    """Six grey pictures of 9 x 8 pixels below two folders; the value of n.png is 10 n."""
    for number in range(6):
        place = tmp_path / "mine" / ("one" if number < 3 else "two")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 8), 10 * number).save(place / f"{number}.png")
    return tmp_path / "mine"


PATHS = [f"{'one' if number < 3 else 'two'}/{number}.png" for number in range(6)]
NAMES = [f"{number}.png" for number in range(6)]
LABELS = ["cat", "dog", "cat", "dog", "cat", "dog"]


def table(columns, *rows, separator=","):
    lines = [columns] if columns else []
    return "\n".join([*lines, *(separator.join(row) for row in zip(*rows, strict=True))]) + "\n"


FORMS = {
    "paths": ("labels.csv", table("file,label", PATHS, LABELS)),
    "Windows' paths": ("a.csv", table("f,label", [p.replace("/", "\\") for p in PATHS], LABELS)),
    "paths of another machine": (
        "a.csv",
        table("f,label", [f"/home/x/{p}" for p in PATHS], LABELS),
    ),
    "names of files": ("labels.csv", table("image,category", NAMES, LABELS)),
    "names without a suffix, Kaggle's": (
        "labels.csv",
        table("id,breed", map(str, range(6)), LABELS),
    ),
    "no header": ("labels.txt", table("", PATHS, LABELS, separator=" ")),
    "no header, the label first": ("labels.tsv", table("", LABELS, NAMES, separator="\t")),
    "semicolons and other columns, as GTSRB's": (
        "Train.csv",
        table("Width;Height;ClassId;Path", "999999", "888888", LABELS, PATHS, separator=";"),
    ),
    "two columns of any name": ("x.csv", table("scan,finding", NAMES, LABELS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same(folder, form):
    name, text = FORMS[form]
    (folder / name).write_text(text, encoding="utf-8")

    raw = read(folder)

    train = raw.splits["train"]
    assert train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert (raw.classes, list(raw.splits)) == (["cat", "dog"], ["train"])
    assert train.names == [f"{folder}/{path}" for path in PATHS]
    assert raw.notes == []


def test_splits_and_groups_are_columns(folder):
    splits = ["train", "training", "val", "val", "test", "test"]
    rows = table("file_name,label,split,patient_id", PATHS, LABELS, splits, "AABBCC")
    (folder / "metadata.csv").write_text(rows)

    raw = read(folder)

    assert list(raw.splits) == ["train", "validation", "test"]
    assert raw.splits["validation"].images[:, 0, 0, 0].tolist() == [20, 30]
    assert raw.splits["validation"].groups.tolist() == ["B", "B"]
    assert raw.splits["test"].labels.tolist() == [0, 1]


def test_a_table_per_split_by_its_name_or_its_folder(folder):
    """Hugging Face's metadata.csv lies in the split's folder and names the files from there."""
    (folder / "one").rename(folder / "train")
    (folder / "two").rename(folder / "test")
    (folder / "train/metadata.csv").write_text(table("file_name,label", NAMES[:3], LABELS[:3]))
    (folder / "test/metadata.csv").write_text(table("file_name,label", NAMES[3:], LABELS[3:]))
    inside = read(folder).splits
    for split, rows in {"train": slice(3), "test": slice(3, 6)}.items():
        (folder / split / "metadata.csv").unlink()
        (folder / f"{split}.csv").write_text(table("id,label", NAMES[rows], LABELS[rows]))
    above = read(folder).splits

    for splits in (inside, above):
        assert splits["train"].labels.tolist() == [0, 1, 0]
        assert splits["test"].images[:, 0, 0, 0].tolist() == [30, 40, 50]


def test_what_no_table_names_and_a_table_without_labels_are_notes(folder):
    (folder / "train.csv").write_text(table("id,label", NAMES[:4], LABELS[:4]))
    (folder / "sample.csv").write_text(table("id", NAMES[4:]))

    raw = read(folder)

    assert len(raw.splits["train"].labels) == 4
    assert raw.notes == [
        f"{folder}/sample.csv: names no labels of pictures here; left out",
        "2 pictures in no table, left out: two/4.png, two/5.png",
    ]


def test_a_table_that_names_no_pictures_is_none_and_classes_are_folders(folder):
    (folder / "notes.csv").write_text("who,when\nI,today\n")
    (folder / "old.txt").write_bytes("größer".encode("latin-1"))

    raw = read(folder)

    assert raw.classes == ["one", "two"]
    assert raw.notes == [f"2 left out, no pictures by name: {folder}/notes.csv, {folder}/old.txt"]


BAD = [
    (table("file,label", [*NAMES, "9.png"], [*LABELS, "cat"]), "names 1 pictures that are not"),
    (table("file,label", [*NAMES, "5.png"], [*LABELS, "cat"]), "name twice: two/5.png"),
    (table("file,a,b", NAMES, LABELS, LABELS), "which of the columns file, a, b has the labels?"),
    (table("file,label,split", NAMES, LABELS, ["fold1"] * 6), "the split 'fold1' is none of"),
    (table("file,label,split", NAMES, LABELS, ["test"] * 6), "names no pictures of training"),
    (table("file,label", NAMES, ["cat"] * 6), "1 classes (['cat'])"),
    (table("file,label", NAMES, [*LABELS[:5], ""]), "row 6: has no label"),
    (table("file,label", NAMES, LABELS) + "0.png\n", "row 7 has 1 columns, too few"),
]


@pytest.mark.parametrize(("text", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_what_cannot_be_used_is_one_line(folder, refusal, text, reason):
    (folder / "labels.csv").write_text(text)

    message = refusal(read, folder)

    assert message.startswith(f"{folder}")
    assert reason in message


def test_a_name_that_two_pictures_have_is_not_guessed(folder, refusal):
    Image.new("L", (9, 8)).save(folder / "two" / "0.png")
    (folder / "labels.csv").write_text(table("file,label", NAMES, LABELS))

    assert "that are not there, or more than once: 0.png" in refusal(read, folder)


def test_a_linked_folder_is_refused(folder, tmp_path, refusal):
    (folder / "two").rename(tmp_path / "elsewhere")
    (folder / "two").symlink_to(tmp_path / "elsewhere")
    (folder / "labels.csv").write_text(table("file,label", PATHS, LABELS))

    assert refusal(read, folder).startswith(f"{folder}/two: a link to a folder, which DVC leaves")


def test_bad_pictures_are_named(folder, refusal):
    (folder / "two" / "4.png").write_bytes(b"")
    (folder / "labels.csv").write_text(table("file,label", PATHS, LABELS))

    assert refusal(read, folder).startswith(f"{folder}/two/4.png: the file is empty")


def test_the_order_of_the_table_is_that_of_the_images(folder):
    order = np.random.default_rng(0).permutation(6)
    rows = table("file,label", [PATHS[n] for n in order], [LABELS[n] for n in order])
    (folder / "labels.csv").write_text(rows)

    assert read(folder).splits["train"].images[:, 0, 0, 0].tolist() == (10 * order).tolist()
