"""Many pictures: in their order, by several processes, which end with who asks."""

import io
import os
import signal
from itertools import count
from multiprocessing import active_children

import numpy as np
import pytest
from PIL import Image

from cnn.base.errors import UserError
from cnn.data import parallel
from cnn.data.parallel import read_pictures

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)


@pytest.fixture
def at_once(monkeypatch):
    """Start processes for the first picture."""
    monkeypatch.setattr(parallel, "ALONE", 0)
    monkeypatch.setattr(parallel, "CHUNK", 4)


@pytest.fixture
def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("alone", [10_000, 0])
def test_they_come_in_their_order_whoever_decodes_them(tmp_path, monkeypatch, at_once, alone):
    monkeypatch.setattr(parallel, "ALONE", alone)
    files = [tmp_path / f"{number:02}.png" for number in range(50)]
    for number, file in enumerate(files):
        Image.fromarray(np.roll(GREY, number)).save(file)
    files[20].write_bytes(b"no picture")
    sources = [(file.name, file.read_bytes() if file.name > "30" else file) for file in files]
    files[21].unlink()

    for workers in (1, 2, 4):
        found = list(read_pictures(sources, None, None, workers=workers))

        assert [name for name, _ in found] == [file.name for file in files]
        for number, (_, picture) in enumerate(found):
            if number in (20, 21):
                assert isinstance(picture, UserError)
            else:
                assert np.array_equal(picture[..., 0], np.roll(GREY, number))
    assert str(found[20][1]).startswith("not an image of a kind that is read")
    assert str(found[21][1]) == "No such file or directory"


def test_their_form_is_handed_on(png, at_once):
    (_, picture), *_ = read_pictures([("a", png)], (12, 12), 3, "stretch", workers=1)
    wanted = Image.fromarray(GREY).convert("RGB").resize((12, 12), Image.Resampling.BILINEAR)
    assert np.array_equal(picture, np.asarray(wanted))


def test_they_are_not_read_far_ahead_and_the_processes_end_when_no_more_are_wanted(png, at_once):
    numbers = count()
    reading = read_pictures(((number, png) for number in numbers), None, None, workers=2)
    assert [next(reading)[0] for _ in range(100)] == list(range(100))
    assert len(active_children()) == 2

    reading.close()

    assert next(numbers) <= 100 + 2 * parallel.AHEAD * parallel.CHUNK
    assert not active_children()


def test_large_ones_in_memory_come_one_by_one(png, at_once, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK_BYTES", len(png))
    numbers = count()
    reading = read_pictures(((number, png) for number in numbers), None, None, workers=1)
    next(reading)
    reading.close()
    assert next(numbers) == parallel.AHEAD


def test_more_than_a_pipe_holds_does_not_stop_it(at_once):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)).save(
        file, "BMP"
    )
    large = [(str(number), file.getvalue()) for number in range(64)]
    assert len(list(read_pictures(large, None, None, workers=2))) == 64


def test_a_process_that_was_killed_is_reported_as_what_it_mostly_is(png, at_once):
    reading = read_pictures(((number, png) for number in count()), None, None, workers=2)
    next(reading)
    os.kill(active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(MemoryError, match="a process that decodes pictures was ended"):
        list(reading)
    assert not active_children()
