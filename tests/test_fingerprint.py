"""What a training depends on has a name, and changes with what it names."""

import hashlib
import os
import shutil
from importlib.metadata import version

import pytest

from cnn.base.params import read_section
from cnn.kernels import build
from cnn.training import fingerprint
from stages import train


@pytest.fixture
def described(tiny_yaml, tmp_path):
    """Call with parameters that differ; every other part stays."""
    data = tmp_path / "train.npz"
    data.write_bytes(b"images")
    section = read_section(tiny_yaml, "train")

    def call(environment=None, **changed):
        params = train.TrainParams(**(section | changed))
        return fingerprint.of_training(
            params, {"training data": data}, train.__file__, environment or {"numpy": "3"}
        )

    call.data = data
    return call


def test_each_part_is_there_under_its_name(described):
    found = described()

    assert found["train.seed"] == "42"
    assert found["train.filters"] == "[8, 16]"
    assert found["train.dense_units"] == "[32]"
    assert found["training data"] == hashlib.sha256(b"images").hexdigest()[:16]
    assert found["numpy"] == "3"
    assert {
        "cnn.training.engine",
        "cnn.model.network",
        "cnn.kernels",
        "cnn.kernels' C",
        "distributed.workers",
        "stages.train",
    } <= set(found)


def test_a_change_of_any_part_is_named(described, tmp_path, monkeypatch):
    first = described()
    others = {
        "train.seed": described(seed=43),
        "train.dense_units": described(dense_units=[32, 32]),
        "numpy": described({"numpy": "4"}),
    }
    before = described.data.read_bytes()
    described.data.write_bytes(b"others")
    others["training data"] = described()
    described.data.write_bytes(before)
    for name in build.SOURCES:
        shutil.copy(build.HERE / name, tmp_path)
    (tmp_path / "primitives.h").write_text("/* another order */")
    monkeypatch.setattr(build, "HERE", tmp_path)
    others["cnn.kernels' C"] = described()

    for name, other in others.items():
        assert fingerprint.differences(first, other) == [name]


def test_a_change_of_the_code_is_named(described, tmp_path, monkeypatch):
    first = described()
    other = tmp_path / "engine.py"
    other.write_text("another training")

    monkeypatch.setattr("cnn.training.engine.__file__", str(other))

    assert fingerprint.differences(first, described()) == ["cnn.training.engine"]


def test_whether_it_may_be_resumed_makes_no_other_training(described):
    assert described(resume=True) == described(resume=False)


def test_what_is_missing_is_named(tmp_path, refusal):
    path = tmp_path / "none.npz"
    assert refusal(fingerprint.digest, path) == (
        f"{path}: cannot be read: No such file or directory; run 'dvc repro'"
    )


CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
cpu MHz\t\t: 2699.998
flags\t\t: fpu amx_bf16 sse4_1 avx avx2 avx512f hypervisor

processor\t: 1
vendor_id\t: Other
flags\t\t: fpu
"""


# What a model depends on


def test_the_exact_environment_is_the_same_on_every_machine(monkeypatch):
    found = [fingerprint.environment("exact")]
    monkeypatch.setattr(fingerprint, "_cpu", lambda: "AuthenticAMD 25 17")
    monkeypatch.setattr(fingerprint, "cores", lambda: 64)
    monkeypatch.setattr("platform.python_version", lambda: "3.13.0")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    found.append(fingerprint.environment("exact"))

    assert found[0] == found[1]
    assert found[0] == {"engine": "exact", "numpy": version("numpy"), "h5py": version("h5py")}


def test_the_environment_of_keras_names_the_machine(tf, monkeypatch):
    class Gpu:
        name = "/physical_device:GPU:0"

    found = []
    for gpus in (0, 2):
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind, n=gpus: [Gpu] * n * (kind == "GPU")
        )
        found.append(fingerprint.environment("keras", "mixed_bfloat16"))

    plain, chosen = found
    assert chosen == plain | {"GPUs": "/physical_device:GPU:0, /physical_device:GPU:0"}
    assert plain == {
        "engine": "keras",
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "h5py")},
        "precision": "mixed_bfloat16",
        "system": f"{os.uname().sysname} {os.uname().machine}",
        "cpu": fingerprint._cpu(),
        "cores": str(fingerprint.cores()),
        "GPUs": "none",
    }
    assert os.uname().nodename not in plain.values()


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        (CPUINFO, "GenuineIntel 6 143"),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n", os.uname().machine),
    ],
    ids=["the first of several", "ARM"],
)
def test_the_cpu_is_what_linux_reports(tmp_path, text, cpu):
    path = tmp_path / "cpuinfo"
    path.write_text(text)

    assert fingerprint._cpu(path) == cpu


def test_without_cpuinfo_the_cpu_has_some_name(tmp_path):
    assert fingerprint._cpu(tmp_path / "missing")
