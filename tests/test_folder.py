"""A folder of pictures is read, or refused in one line that names the file or class."""

import numpy as np
import pytest
from PIL import Image

from cnn.data.raw import Options
from cnn.data.readers import read


def picture(path, value=60, size=(12, 10), mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 0)).convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two pictures of each of two classes: 12 x 10 pixels, in colour."""
    for name in ("größer als", "kleiner"):
        for number in range(2):
            picture(tmp_path / "mine" / name / f"{number}.png", 60 + number)
    return tmp_path / "mine"


def test_each_subfolder_is_a_class(folder):
    raw = read(folder)

    assert raw.classes == ["größer als", "kleiner"]
    assert raw.splits["train"].images.shape == (4, 10, 12, 3)
    np.testing.assert_array_equal(raw.splits["train"].labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(raw.splits["train"].images[1, 0, 0], [61, 30, 0])
    assert (list(raw.splits), raw.notes, raw.published) == (["train"], [], None)
    assert raw.splits["train"].names[1] == f"{folder}/größer als/1.png"


def test_train_and_test_may_stand_above(folder, tmp_path):
    (tmp_path / "both").mkdir()
    folder.rename(tmp_path / "both" / "train")
    for name in ("größer als", "kleiner"):
        picture(tmp_path / "both" / "test" / name / "0.jpg")

    raw = read(tmp_path / "both")

    assert (len(raw.splits["train"].images), len(raw.splits["test"].images)) == (4, 2)
    np.testing.assert_array_equal(raw.splits["test"].labels, [0, 1])


def test_the_order_is_that_of_the_names_and_hidden_files_are_none(folder):
    picture(folder / "kleiner" / "10.png", 90)
    (folder / "kleiner" / ".DS_Store").write_text("")
    (folder / ".git").mkdir()

    raw = read(folder)

    assert raw.classes == ["größer als", "kleiner"]
    assert raw.splits["train"].images[2:, 0, 0, 0].tolist() == [60, 61, 90]  # 0.png, 1.png, 10.png


def test_channels_and_size_bring_what_differs_together(folder):
    picture(folder / "kleiner" / "grey.png", mode="L")
    picture(folder / "kleiner" / "large.png", size=(100, 80))

    raw = read(folder, Options(size=16, channels=1))

    assert raw.splits["train"].images.shape == (6, 16, 16, 1)


def test_a_text_beside_the_pictures_is_a_note(folder):
    (folder / "kleiner" / "notes.txt").write_text("mine")

    raw = read(folder)

    assert raw.notes == [f"1 left out, no pictures by name: {folder / 'kleiner/notes.txt'}"]


def replace(path, content: bytes):
    path.write_bytes(content)
    return path


def move_into_train(folder):
    classes = list(folder.iterdir())
    (folder / "train").mkdir()
    for each in classes:
        each.rename(folder / "train" / each.name)


def empty(folder):
    (folder / "nothing").mkdir()
    return "nothing: no pictures in this class"


def one_class(folder):
    (folder / "kleiner").rename(folder.parent / "away")
    return "1 classes (['größer als']); 2 to 100 are possible"


def damaged(folder):
    file = folder / "kleiner" / "1.png"
    return f"{replace(file, file.read_bytes()[:45])}: damaged image"


def nothing_in_it(folder):
    return f"{replace(folder / 'kleiner' / '1.png', b'')}: the file is empty"


def text(folder):
    file = replace(folder / "kleiner" / "1.png", b"no picture")
    return f"{file}: not an image of a kind that is read"


def of_another_size(folder):
    picture(folder / "kleiner" / "1.png", size=(13, 10))
    return "1.png: is 13x10 pixels, "


def of_another_mode(folder):
    picture(folder / "kleiner" / "1.png", mode="L")
    return "1.png: is grey, "


def too_small(folder):
    for file in folder.rglob("*.png"):
        picture(file, size=(5, 10))
    return "images are 10 x 5 pixels; sides may have 8 to 256; prepare.image_size resizes"


def names_that_differ_by_case(folder):
    picture(folder / "Kleiner" / "1.png")
    return "classes 'Kleiner' and 'kleiner' differ by case at most"


def many(folder):
    for number in range(99):
        picture(folder / f"c{number}" / "1.png")
    return "101 classes"


def a_third_split(folder):
    picture(folder / "train" / "a" / "1.png")
    return "'größer als' stands next to train/; only train/, val/ and test/ may"


def only_a_test(folder):
    for file in list(folder.iterdir()):
        file.rename(folder.parent / file.name)
    picture(folder / "test" / "a" / "1.png")
    return "has test/ but no train/"


def a_class_that_is_new_in_the_test(folder):
    move_into_train(folder)
    picture(folder / "test" / "other" / "1.png")
    return "other: this class is not in training"


def a_class_without_test_pictures(folder):
    move_into_train(folder)
    picture(folder / "test" / "kleiner" / "1.png")
    return "größer als: no pictures in this class"


BAD = [
    empty, one_class, damaged, nothing_in_it, text, of_another_size, of_another_mode, too_small,
    names_that_differ_by_case, many, a_third_split, only_a_test, a_class_that_is_new_in_the_test,
    a_class_without_test_pictures,
]  # fmt: skip


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_used_is_one_line(folder, refusal, spoil):
    reason = spoil(folder)

    message = refusal(read, folder)

    assert message.startswith(str(folder))
    assert reason in message


def test_all_bad_pictures_are_listed_by_their_reason(folder, refusal):
    """Those of the test too; and the first picture of all is no model for the others."""
    move_into_train(folder)
    bad = [replace(folder / "train" / "größer als" / f"{n}.png", b"") for n in range(2)]
    picture(folder / "train" / "größer als" / "a.png")
    large = folder / "test" / "größer als" / "0.png"
    picture(large, size=(13, 10))
    picture(folder / "test" / "kleiner" / "1.png")

    message = refusal(read, folder)

    assert message.startswith(f"{bad[0]}, {bad[1]}: the file is empty; {large}: is 13x10 pixels, ")
    assert "more pictures" not in message


def test_of_many_bad_pictures_ten_are_named(folder, refusal):
    for number in range(40):
        replace(folder / "kleiner" / f"bad {number:02}.png", b"x" if number % 2 else b"")

    message = refusal(read, folder)

    assert message.count("bad ") == 10
    assert "; and 30 more pictures" in message


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_given_validation_pictures_are_those(folder, name):
    move_into_train(folder)
    picture(folder / name / "kleiner" / "7.png", 90)

    raw = read(folder)

    assert list(raw.splits) == ["train", "validation"]
    assert raw.splits["validation"].images[:, 0, 0, 0].tolist() == [90]
    assert raw.splits["validation"].labels.tolist() == [1]


def test_sub_folders_of_a_class_are_groups(folder):
    picture(folder / "kleiner" / "writer 3" / "1.png", 90)
    picture(folder / "kleiner" / "writer 3" / "page 2" / "1.png", 91)
    picture(folder / "größer als" / "writer 3" / "0.png", 92)

    train = read(folder).splits["train"]

    assert train.images[:, 0, 0, 0].tolist() == [60, 61, 92, 60, 61, 90, 91]
    assert train.groups.tolist() == ["", "", "writer 3", "", "", "writer 3", "writer 3"]


def test_one_picture_per_class_is_read(folder):
    for file in folder.rglob("1.png"):
        file.unlink()

    assert read(folder).splits["train"].labels.tolist() == [0, 1]


def test_what_macos_adds_to_a_zip_is_no_class_and_is_counted(folder):
    picture(folder / "__MACOSX" / "kleiner" / "._1.png")
    (folder / "kleiner" / "._1.png").write_bytes(b"\0\5\x16\7")

    raw = read(folder)

    assert (raw.classes, len(raw.splits["train"].images)) == (["größer als", "kleiner"], 4)
    assert raw.notes == [
        f"2 left out, no pictures by name: {folder}/__MACOSX, {folder}/kleiner/._1.png"
    ]


def test_unlabelled_test_pictures_are_left_out_by_their_name(folder):
    move_into_train(folder)
    for number in range(3):
        picture(folder / "test" / f"{number}.png")

    raw = read(folder)

    assert list(raw.splits) == ["train"]
    assert raw.notes == [f"{folder}/test: 3 files in no folder of a class, so unlabelled; left out"]


def test_grey_pictures_stored_as_colour_are_a_note(folder):
    for file in folder.rglob("*.png"):
        Image.new("L", (12, 10), 60).convert("RGB").save(file)

    raw = read(folder)

    assert raw.notes == [
        "the pictures are grey, stored as colour; prepare.channels: 1 makes them grey"
    ]


@pytest.mark.parametrize("place", ["train", "train/kleiner", "train/kleiner/writer"])
def test_a_linked_folder_which_dvc_would_leave_out_is_refused(folder, tmp_path, refusal, place):
    move_into_train(folder)
    picture(folder / "train" / "kleiner" / "writer" / "1.png")
    (folder / place).rename(tmp_path / "elsewhere")
    (folder / place).symlink_to(tmp_path / "elsewhere")

    message = refusal(read, folder)

    assert message.startswith(f"{folder / place}: a link to a folder, which DVC leaves out; put ")


def test_a_linked_picture_is_read_and_a_broken_link_is_named(folder, tmp_path, refusal):
    (folder / "kleiner" / "1.png").rename(tmp_path / "1.png")
    (folder / "kleiner" / "1.png").symlink_to(tmp_path / "1.png")
    assert len(read(folder).splits["train"].images) == 4

    (tmp_path / "1.png").unlink()

    assert refusal(read, folder).startswith(f"{folder}/kleiner/1.png: No such file")


def test_pictures_in_no_folder_of_a_class_are_named_so(tmp_path, refusal):
    for number in range(2):
        picture(tmp_path / "flat" / f"{number}.png")

    message = refusal(read, tmp_path / "flat")

    assert "0 classes" in message
    assert (
        "a folder per class is expected, or a table of file names and labels; found 0.png"
        in message
    )


def test_a_folder_too_many_is_named(folder, tmp_path, refusal):
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer" / "inner")

    message = refusal(read, tmp_path / "outer")

    assert f"name that: prepare.raw: {tmp_path}/outer/inner" in message


def test_pictures_cannot_be_transposed(folder, refusal):
    message = refusal(read, folder, Options(transpose=True))

    assert "prepare.transpose turns arrays" in message
