"""A file is written whole or not at all; one that cannot be read is named with what to do."""

import errno
import json
import os
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cnn.base import files
from cnn.base.files import REPAIR, atomic_write


def test_a_file_is_put_in_place_when_it_is_whole_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "file"

    with atomic_write(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()

    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_after_an_exception_all_is_as_before(tmp_path, error, before):
    path = tmp_path / "file"
    if before:
        path.write_text(before)

    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half of")
        raise error

    assert {each: each.read_text() for each in tmp_path.iterdir()} == (
        {path: before} if before else {}
    )


@pytest.mark.parametrize("named", [None, "temporary", "another"])
def test_the_file_that_the_system_refuses_is_named_and_not_the_temporary(tmp_path, named):
    path = tmp_path / "file"

    with pytest.raises(OSError) as caught, atomic_write(path) as temporary:
        name = {None: [], "temporary": [str(temporary)], "another": ["another"]}[named]
        raise OSError(errno.ENOSPC, "No space left on device", *name)

    assert caught.value.filename == ("another" if named == "another" else str(path))


def test_what_dead_processes_left_is_removed_and_what_the_living_write_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = {f".partial-{process}-file": process for process in (dead.pid, os.getppid(), 1)}
    kept = [".partial-of-the-user", "partial-1", f".{dead.pid}"]
    for name in [*names, *kept]:
        (tmp_path / name).touch()

    with atomic_write(tmp_path / "file") as temporary:
        temporary.touch()

    del names[f".partial-{dead.pid}-file"]
    assert {path.name for path in tmp_path.iterdir()} == {"file", *names, *kept}


@pytest.mark.parametrize("ignoring", [".gitignore", ".dvcignore"])
def test_git_and_dvc_ignore_what_is_half_written(tmp_path, ignoring):
    patterns = (Path(__file__).parent.parent / ignoring).read_text().split()

    with atomic_write(tmp_path / "file") as temporary:
        temporary.touch()
        assert any(fnmatch(temporary.name, pattern) for pattern in patterns)


def test_rows_are_written_as_csv_with_lf_and_quotes_where_needed(tmp_path):
    path = tmp_path / "new" / "table.csv"

    files.write_csv(path, [{"class": 'a, "b"', "count": 1}, {"class": "ü", "count": 2}])

    assert path.read_bytes() == 'class,count\n"a, ""b""",1\nü,2\n'.encode()


def test_json_keeps_its_order_and_its_letters(tmp_path):
    path = tmp_path / "document.json"
    document = {"z": 1, "a": {"Käfer": [0.5, None]}}

    files.write_json(path, document)

    assert path.read_bytes().endswith(b"}\n")
    assert "Käfer" in path.read_text(encoding="utf-8")
    assert json.dumps(files.read_json(path)) == json.dumps(document)


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
def test_a_json_file_that_is_damaged_or_missing_is_refused_with_what_to_do(
    tmp_path, refusal, content, reason
):
    path = tmp_path / "file"
    assert refusal(files.read_json, path) == f"{path}: is missing; run 'dvc repro'"
    path.write_bytes(content)

    message = refusal(files.read_json, path)

    assert message.startswith(f"{path}: {reason}")
    assert message.endswith(f"; {REPAIR}")


def test_of_regular_files_alone_a_bounded_number_of_bytes_is_read(tmp_path, refusal):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "loop", Path("a\0b")):
        refusal(files.read_bytes, path, 1000)
    (tmp_path / "large").write_bytes(b"x" * 1001)

    assert files.read_bytes(tmp_path / "large", 1001) == b"x" * 1001
    message = refusal(files.read_bytes, tmp_path / "large", 1000)
    assert message == "1,001 bytes; at most 1,000 are read"
