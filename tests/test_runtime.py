"""TensorFlow is imported where it is needed alone, and what the bytes depend on is told."""

import gc
import os
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from cnn import runtime

ROOT = Path(__file__).parent.parent
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


def test_the_library_imports_no_tensorflow_until_it_is_used(tmp_path):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")
    code = "from cnn import archive, engine, kernels, model, runtime, workers\n"
    code += "import stages.train, stages.evaluate, handwriting.predict"

    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment)

    assert done.returncode == 0


def test_tensorflow_starts_quietly_without_what_no_stage_uses_and_finds_it_afterwards():
    code = """if True:
        import gc, sys
        from cnn import runtime
        runtime.start_tensorflow(seed=3)
        assert {"tensorflow", "keras"} <= set(sys.modules)
        assert not set(runtime.OPTIONAL) & set(sys.modules)
        assert gc.isenabled()
        assert runtime.keras.config.backend() == "tensorflow"
        import pandas
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_source_of_chance_is_seeded(tf):
    drawn = []
    for seed in (7, 7, 8):
        runtime.start_tensorflow(seed)
        drawn.append(
            (
                random.random(),
                np.random.random(),
                float(runtime.keras.random.uniform(())),
                float(tf.random.uniform(())),
            )
        )

    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])
def test_the_precision_is_keras_dtype_policy(tf, precision):
    runtime.start_tensorflow(1, precision)

    assert runtime.keras.config.dtype_policy().name == precision


def test_what_the_user_has_told_tensorflow_stays(tf, monkeypatch):
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0")

        runtime.start_tensorflow()

        assert os.environ[name] == "0"


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert runtime.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert runtime.cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runtime.cores() == 1


# What a model depends on


def test_the_exact_environment_is_the_same_on_every_machine(monkeypatch):
    told = [runtime.environment("exact")]
    monkeypatch.setattr(runtime, "_cpu", lambda: "AuthenticAMD 25 17")
    monkeypatch.setattr(runtime, "cores", lambda: 64)
    monkeypatch.setattr("platform.python_version", lambda: "3.13.0")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    told.append(runtime.environment("exact"))

    assert told[0] == told[1]
    assert told[0] == {"engine": "exact", "numpy": version("numpy"), "h5py": version("h5py")}


def test_the_environment_of_keras_names_the_machine(tf, monkeypatch):
    class Gpu:
        name = "/physical_device:GPU:0"

    told = []
    for gpus in (0, 2):
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind, n=gpus: [Gpu] * n * (kind == "GPU")
        )
        told.append(runtime.environment("keras", "mixed_bfloat16"))

    plain, chosen = told
    assert chosen == plain | {"GPUs": "/physical_device:GPU:0, /physical_device:GPU:0"}
    assert plain == {
        "engine": "keras",
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "h5py")},
        "precision": "mixed_bfloat16",
        "system": f"{os.uname().sysname} {os.uname().machine}",
        "cpu": runtime._cpu(),
        "cores": str(runtime.cores()),
        "GPUs": "none",
    }
    assert os.uname().nodename not in plain.values()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CPUINFO, "GenuineIntel 6 143"),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n", os.uname().machine),
    ],
    ids=["the first of several", "ARM"],
)
def test_the_cpu_is_what_linux_tells_of_it(tmp_path, text, told):
    path = tmp_path / "cpuinfo"
    path.write_text(text)

    assert runtime._cpu(path) == told


def test_without_cpuinfo_the_cpu_is_told_as_far_as_it_goes(tmp_path):
    assert runtime._cpu(tmp_path / "missing")


# While it is imported


def test_what_c_code_says_is_kept_from_the_terminal_and_python_speaks_again(capfd):
    with runtime.silence():
        os.write(2, b"a note of a library's")
    os.write(2, b"after")

    assert capfd.readouterr().err == "after"


def test_an_error_in_an_import_is_told_and_leaves_all_as_it_was(capfd, monkeypatch):
    monkeypatch.setattr(runtime, "import_module", lambda name: 1 / 0)
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    before = gc.isenabled()

    with pytest.raises(ZeroDivisionError):
        runtime.start_tensorflow()
    os.write(2, b"after")

    assert capfd.readouterr().err == "after"
    assert gc.isenabled() == before
    assert "pandas" not in sys.modules  # None there would make it impossible to import


def test_a_look_at_what_a_module_holds_imports_nothing():
    late = runtime._Late("no_such_module")

    assert not hasattr(late, "_mock_name")
    with pytest.raises(ModuleNotFoundError):
        _ = late.anything
