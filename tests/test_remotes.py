"""What was pushed arrives in a fresh clone, by each kind of remote, and damage is noticed there.

A real sshd and a real S3 server run on this machine, of which dvc-ssh and dvc-s3 know nothing.
"""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import clones
from tests.helpers.clones import commit, dvc, git
from tests.helpers.recorded import make_repository
from tools.workers import free_addresses

PIPELINE = """\
stages:
  train:
    cmd: python train.py ${epochs}
    deps: [train.py]
    outs: [model, folder]
  evaluate:
    cmd: (cat model; echo) > metrics.json
    deps: [model]
    metrics:
    - metrics.json:
        cache: false
"""
TRAIN = """\
import json, pathlib, sys
print("training")
pathlib.Path("model").write_text(json.dumps({"accuracy": int(sys.argv[1]) / 10}))
pathlib.Path("folder").mkdir()
pathlib.Path("folder", "zeros").write_bytes(bytes(1000000))
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository with two commits, each with what it gave."""
    root = tmp_path_factory.mktemp("remotes") / "origin"
    root.mkdir()
    make_repository(root)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "train.py": TRAIN,
        "params.yaml": "epochs: 8\n",
    }.items():
        (root / name).write_text(text)
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@localhost")
    for epochs in (9, 8):
        (root / "params.yaml").write_text(f"epochs: {epochs}\n")
        dvc(root, "repro")
        commit(root, f"{epochs} epochs")
    return root


def wait_for(port: int, server: subprocess.Popen) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert server.poll() is None, server.stderr.read()
            time.sleep(0.05)
    raise AssertionError("the server does not listen")


def program(name: str, package: str) -> str:
    """Return the path of a server's program; without it the test is left out, but not in CI."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/sbin:{os.environ['PATH']}")
    if not found and "CI" not in os.environ:
        pytest.skip(f"{name} is not here; it is in Debian's package {package}")
    assert found, f"{name} is missing: {package}"
    return found


@pytest.fixture
def directory(tmp_path):
    yield str(tmp_path / "storage"), {}


@pytest.fixture
def ssh(tmp_path):
    """An sshd with keys of its own, that lets in who has the key, and nothing else."""
    sshd = program("sshd", "openssh-server")
    port = int(free_addresses(1)[0].rpartition(":")[2])
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key]
        subprocess.run(command, check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which Debian makes when it starts its own
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    command = [sshd, "-D", "-e", "-f", tmp_path / "config"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        wait_for(port, server)
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path}/storage"
        yield url, {"keyfile": str(tmp_path / "user")}
        server.kill()


@pytest.fixture
def s3(tmp_path):
    rclone = program("rclone", "rclone")
    address = free_addresses(1)[0]
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    command = [rclone, "serve", "s3", "--addr", address, "--auth-key", "user,secret"]
    environment = os.environ | {"RCLONE_CONFIG": os.devnull}
    with subprocess.Popen(
        [*command, tmp_path / "served"], stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        wait_for(int(address.rpartition(":")[2]), server)
        yield (
            "s3://bucket/project",
            {
                "endpointurl": f"http://{address}",
                "access_key_id": "user",
                "secret_access_key": "secret",
            },
        )
        server.kill()


def connect(clone: Path, url: str, settings: dict[str, str]) -> None:
    """Write what `dvc remote add --local` and `dvc remote modify --local` write."""
    lines = ["[core]", "remote = storage", "['remote \"storage\"']", f"url = {url}"]
    lines += [f"{key} = {value}" for key, value in settings.items()]
    (clone / ".dvc/config.local").write_text("\n".join(lines) + "\n")


def cloned(origin: Path, target: Path, url: str, settings: dict[str, str]) -> Path:
    subprocess.run(["git", "clone", "--quiet", origin, target], check=True)
    connect(target, url, settings)
    return target


@pytest.mark.parametrize("kind", ["directory", "ssh", "s3"])
def test_what_was_pushed_is_all_that_a_fresh_clone_needs(
    kind, origin, tmp_path, request, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(clones.ROOT))
    url, settings = request.getfixturevalue(kind)
    connect(origin, url, settings)
    pushed = dvc(origin, "push")
    runs = clones.run(origin, sys.executable, "-m", "tools.push_runs")
    clone = cloned(origin, tmp_path / "clone", url, settings)

    pulled = dvc(clone, "pull")

    assert pushed.strip().endswith("files pushed")
    assert runs.startswith("4 runs and ")
    assert "A       model" in pulled
    assert dvc(clone, "status") == "Data and pipelines are up to date.\n"
    assert json.loads((clone / "model").read_text()) == {"accuracy": 0.8}
    assert (clone / "folder" / "zeros").read_bytes() == bytes(1000000)
    assert "Running" not in dvc(clone, "repro")
    # What the other ran with another parameter is not run again.
    (clone / "params.yaml").write_text("epochs: 9\n")
    said = dvc(clone, "repro", "--pull")
    assert "Stage 'train' is cached - skipping run" in said
    assert "Running" not in said
    assert json.loads((clone / "metrics.json").read_text()) == {"accuracy": 0.9}


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_with_verify_damage_in_a_remote_ends_in_a_line(damage, origin, directory, tmp_path):
    url, _ = directory
    connect(origin, url, {})
    dvc(origin, "push")
    (large,) = (
        path for path in Path(url).rglob("*") if path.is_file() and path.stat().st_size > 99999
    )
    content = bytearray(large.read_bytes())
    content[5] ^= 1
    large.chmod(0o644)
    large.write_bytes(content if damage == "flipped" else content[:1000])
    large.chmod(0o444)  # as DVC leaves it; what can be written, it hashes without `verify` too

    clone = cloned(origin, tmp_path / "clone", url, {"verify": "true"})
    pulled = clones.attempt(clone, sys.executable, "-m", "dvc", "pull")

    assert pulled.returncode != 0
    assert "Traceback" not in pulled.stderr
    assert "folder" in pulled.stderr
    assert not (clone / "folder" / "zeros").exists()
    assert "training" in dvc(clone, "repro")  # trains again, and right
    assert (clone / "folder" / "zeros").read_bytes() == bytes(1000000)
    assert git(clone, "status", "--porcelain") == ""


def test_without_a_remote_dvc_says_so(origin, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", origin, clone], check=True)

    done = clones.attempt(clone, sys.executable, "-m", "dvc", "pull")

    assert done.returncode != 0
    assert "no remote" in done.stderr.lower()
    assert "Traceback" not in done.stderr
