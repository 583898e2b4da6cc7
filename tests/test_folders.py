"""A folder of pictures is read, or refused in one line that names the file or class."""

import numpy as np
import pytest
from PIL import Image

from cnn.data.folders import read_folder
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
    raw = read(folder, None, None)

    assert raw.classes == ["größer als", "kleiner"]
    assert raw.x_train.shape == (4, 10, 12, 3)
    np.testing.assert_array_equal(raw.y_train, [0, 0, 1, 1])
    np.testing.assert_array_equal(raw.x_train[1, 0, 0], [61, 30, 0])
    assert (raw.x_test, raw.notes, raw.published) == (None, [], None)


def test_train_and_test_may_stand_above(folder, tmp_path):
    (tmp_path / "both").mkdir()
    folder.rename(tmp_path / "both" / "train")
    for name in ("größer als", "kleiner"):
        picture(tmp_path / "both" / "test" / name / "0.jpg")

    raw = read(tmp_path / "both", None, None)

    assert (len(raw.x_train), len(raw.x_test)) == (4, 2)
    np.testing.assert_array_equal(raw.y_test, [0, 1])


def test_the_order_is_that_of_the_names_and_hidden_files_are_none(folder):
    picture(folder / "kleiner" / "10.png", 90)
    (folder / "kleiner" / ".DS_Store").write_text("")
    (folder / ".git").mkdir()

    raw = read(folder, None, None)

    assert raw.classes == ["größer als", "kleiner"]
    assert raw.x_train[2:, 0, 0, 0].tolist() == [60, 61, 90]  # 0.png, 1.png, 10.png


def test_channels_and_size_bring_what_differs_together(folder):
    picture(folder / "kleiner" / "grey.png", mode="L")
    picture(folder / "kleiner" / "large.png", size=(100, 80))

    raw = read(folder, 16, 1)

    assert raw.x_train.shape == (6, 16, 16, 1)


def test_a_text_beside_the_pictures_is_a_note(folder):
    (folder / "kleiner" / "notes.txt").write_text("mine")

    raw = read(folder, None, None)

    assert raw.notes == [f"{folder / 'kleiner'}: 1 no pictures by name, left out: notes.txt"]


def test_light_pictures_are_a_note(folder):
    for file in folder.rglob("*.png"):
        Image.new("RGB", (12, 10), "white").save(file)

    assert read(folder, None, None).notes[0].startswith("the pictures are light on the whole")


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
    picture(folder / "val" / "a" / "1.png")
    return "'größer als' stands next to train/; only train/ and test/ may"


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

    message = refusal(read, folder, None, None)

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

    message = refusal(read, folder, None, None)

    assert message.startswith(f"{bad[0]}, {bad[1]}: the file is empty; {large}: is 13x10 pixels, ")
    assert "more pictures" not in message


def test_of_many_bad_pictures_ten_are_named(folder, refusal):
    for number in range(40):
        replace(folder / "kleiner" / f"bad {number:02}.png", b"x" if number % 2 else b"")

    message = refusal(read, folder, None, None)

    assert message.count("bad ") == 10
    assert "; and 30 more pictures" in message


def test_a_folder_that_is_not_there_is_named(tmp_path, refusal):
    assert refusal(read_folder, tmp_path / "none", None, None).startswith(f"{tmp_path / 'none'}: ")
