"""A file is written whole or not at all; one that cannot be read is named with the cure."""

import csv
import errno
import json
import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cnn import files
from cnn.files import CURE, replacing


def test_replacing_puts_the_file_in_place_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file"

    with replacing(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()

    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replacing_leaves_nothing_after_an_exception(tmp_path, error):
    with pytest.raises(error), replacing(tmp_path / "file") as temporary:
        temporary.write_text("half of")
        raise error

    assert list(tmp_path.iterdir()) == []


def test_replacing_keeps_the_old_file_after_an_exception(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    with pytest.raises(OSError), replacing(path) as temporary:
        temporary.write_text("new")
        raise OSError

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_names_the_file_that_the_system_refuses_and_not_the_temporary(tmp_path):
    path = tmp_path / "file"

    for told in (None, "itself"):
        with pytest.raises(OSError) as caught, replacing(path) as temporary:
            name = [] if told is None else [str(temporary)]
            raise OSError(errno.ENOSPC, "No space left on device", *name)
        assert caught.value.filename == str(path)


def test_replacing_names_another_file_that_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "file"):
        (tmp_path / "other").read_text()

    assert caught.value.filename == str(tmp_path / "other")


def test_what_dead_processes_left_is_removed_and_what_the_living_write_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {f".partial-{process}-file": process for process in (dead.pid, os.getppid(), 1)}
    kept = [".partial-of-the-user", "partial-1", f".{dead.pid}"]
    for name in [*names, *kept]:
        (tmp_path / name).touch()

    with replacing(tmp_path / "file") as temporary:
        temporary.touch()

    del names[f".partial-{dead.pid}-file"]
    assert {path.name for path in tmp_path.iterdir()} == {"file", *names, *kept}


@pytest.mark.parametrize("ignoring", [".gitignore", ".dvcignore"])
def test_git_and_dvc_ignore_what_is_half_written(tmp_path, ignoring):
    patterns = (Path(__file__).parent.parent / ignoring).read_text().split()

    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
        assert any(fnmatch(temporary.name, pattern) for pattern in patterns)


def test_rows_are_written_as_csv_with_lf_and_quotes_where_needed(tmp_path):
    path = tmp_path / "new" / "table.csv"
    rows = [{"class": 'a, "b"', "count": 1}, {"class": "ü", "count": 2}]

    files.write_csv(path, rows)

    assert path.read_bytes() == 'class,count\n"a, ""b""",1\nü,2\n'.encode()
    with open(path, newline="", encoding="utf-8") as stream:
        assert [row["class"] for row in csv.DictReader(stream)] == ['a, "b"', "ü"]


def test_json_keeps_its_order_and_its_letters(tmp_path):
    path = tmp_path / "document.json"
    document = {"z": 1, "a": {"Käfer": [0.5, None]}}

    files.write_json(path, document)

    assert path.read_bytes().endswith(b"}\n")
    assert "Käfer" in path.read_text(encoding="utf-8")
    assert json.dumps(files.read_json(path)) == json.dumps(document)


@pytest.mark.parametrize("read", [files.read_text, files.read_json])
def test_a_missing_file_is_named_with_the_cure(tmp_path, refusal, read):
    path = tmp_path / "file"

    assert refusal(read, path) == f"{path}: is missing; run 'dvc repro'"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "is no text"),
        (b"", "is no JSON ("),
        (b'{"accuracy": ', "is no JSON ("),
        (b"<<<<<<< HEAD\n{}", "is no JSON ("),
        (b"[1]", "is no JSON object"),
    ],
)
def test_a_damaged_json_file_is_refused_with_the_cure(tmp_path, refusal, content, reason):
    path = tmp_path / "file"
    path.write_bytes(content)

    message = refusal(files.read_json, path)

    assert message.startswith(f"{path}: {reason}")
    assert message.endswith(f"; {CURE}")
