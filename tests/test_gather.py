"""Pictures become an array per split, all alike; those that cannot be used are named at once."""

import io
import mmap

import numpy as np
import pytest
from PIL import Image

from cnn.data.gather import gather
from cnn.data.raw import Options


def png(value=60, size=(12, 10), mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (value, value // 2, 0)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


AS_THEY_ARE = Options()


def gathered(options=AS_THEY_ARE, **splits):
    """Return the images and the notes of {split: [content of a picture, ...]}."""
    notes: list[str] = []
    sources = {
        split: [(f"{split} {number}", content) for number, content in enumerate(contents)]
        for split, contents in splits.items()
    }
    counts = {split: len(contents) for split, contents in splits.items()}
    return gather("pictures", sources, counts, options, notes), notes


def test_each_split_has_its_pictures_in_their_order_in_a_file(tmp_path):
    images, notes = gathered(Options(scratch=tmp_path), train=[png(60), png(80)], test=[png(100)])

    assert {split: array.shape for split, array in images.items()} == {
        "train": (2, 10, 12, 3),
        "test": (1, 10, 12, 3),
    }
    assert images["train"][:, 0, 0, 0].tolist() == [60, 80]
    assert images["test"][0, 0, 0].tolist() == [100, 50, 0]
    assert notes == []
    memory = images["train"]
    while isinstance(memory, np.ndarray):
        memory = memory.base
    assert isinstance(memory, mmap.mmap)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "train 1: the file is empty"),
        (png(size=(13, 10)), "train 1: is 13x10 pixels, train 0 12x10; set prepare.image_size"),
        (png(mode="L"), "train 1: is grey, train 0 is in colour; set prepare.channels to 1 or 3"),
    ],
)
def test_a_picture_unlike_the_first_is_named_with_what_to_do(refusal, bad, reason):
    assert refusal(gathered, train=[png(), bad]).startswith(reason)


def test_those_of_all_splits_are_listed_by_their_reason_whichever_comes_first(refusal):
    message = refusal(gathered, train=[b"", png(), b""], test=[png(size=(13, 10)), png()])

    assert message.startswith(
        "train 0, train 2: the file is empty; test 0: is 13x10 pixels, train 1 "
    )


def test_ten_are_named_and_how_many_more(refusal):
    message = refusal(gathered, train=[png(), *[b"x", b""] * 15])

    assert message.count("train ") == 10
    assert message.endswith("; and 20 more pictures")


def test_what_differs_is_brought_together_where_that_is_asked():
    images, _ = gathered(Options(size=16, channels=1), train=[png(), png(size=(90, 70), mode="L")])

    assert images["train"].shape == (2, 16, 16, 1)


def test_grey_stored_as_colour_is_a_note_if_all_are():
    grey = io.BytesIO()
    Image.new("L", (12, 10), 60).convert("RGB").save(grey, "PNG")

    assert "prepare.channels: 1" in gathered(train=[grey.getvalue()] * 2)[1][0]
    assert gathered(train=[grey.getvalue(), png()])[1] == []


def test_no_picture_is_transposed(refusal):
    assert "read as they look" in refusal(gathered, Options(transpose=True), train=[png()])
