"""TensorFlow starts in a known state, and what the bytes depend on is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn import runtime

ROOT = Path(__file__).parent.parent
ISOLATED = {k: v for k, v in os.environ.items() if not k.startswith(runtime.SWITCHES)}
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


@pytest.fixture
def clean(monkeypatch):
    """No switch in the environment but those that a test sets."""
    for name in list(os.environ):
        if name.startswith(runtime.SWITCHES):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "set_instead"),
    [
        ("TF_ENABLE_ONEDNN_OPTS", "1"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("KERAS_BACKEND", "tensorflow"),
        ("ONEDNN_VERBOSE", None),
        ("XLA_FLAGS", None),
        ("OMP_NUM_THREADS", None),
    ],
)
def test_a_switch_that_would_change_the_result_is_ignored_with_a_warning(
    tf, clean, capsys, name, set_instead
):
    clean.setenv(name, "0")

    assert runtime.start_tensorflow(seed=1) is None

    assert os.environ.get(name) == set_instead
    assert capsys.readouterr().err == f"warning: {name}=0 is ignored: the pipeline sets its own\n"


@pytest.mark.parametrize(
    ("instruction_set", "expected"),
    [
        ("avx2", {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": "-1"}),
        ("native", {"ONEDNN_MAX_CPU_ISA": None, "CUDA_VISIBLE_DEVICES": None}),
    ],
)
def test_what_the_start_sets_itself_is_not_warned_of_at_the_next_one(
    tf, clean, capsys, instruction_set, expected
):
    for _ in range(2):
        runtime.start_tensorflow(1, instruction_set)

    expected = expected | {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}
    assert {name: os.environ.get(name) for name in expected} == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("instruction_set", "name"),
    [
        ("avx2", "TF_CPP_MIN_LOG_LEVEL"),
        ("avx2", "KERAS_HOME"),
        ("native", "KERAS_HOME"),
        ("native", "ONEDNN_MAX_CPU_ISA"),
        ("native", "TF_ENABLE_ONEDNN_OPTS"),
        ("native", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_changes_no_result_or_is_recorded_stays(tf, clean, capsys, instruction_set, name):
    clean.setenv(name, "0")

    runtime.start_tensorflow(1, instruction_set)

    assert os.environ[name] == "0"
    assert capsys.readouterr().err == ""


def test_the_native_environment_records_what_the_user_chose_of_the_machine(tf, clean):
    class Gpu:
        name = "/physical_device:GPU:0"

    runtime.start_tensorflow(1, "native")
    plain = runtime.environment("native", "mixed_bfloat16")
    clean.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    clean.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    clean.setattr(tf.config, "list_physical_devices", lambda kind: [Gpu] * (kind == "GPU"))
    chosen = runtime.environment("native", "mixed_bfloat16")

    assert (plain["instruction set cap"], plain["oneDNN"]) == ("none", "1")
    assert (chosen["instruction set cap"], chosen["oneDNN"]) == ("SSE41", "0")
    assert chosen["GPUs"] == "/physical_device:GPU:0"
    assert plain["cpu"]
    assert set(plain) - set(runtime.environment("avx2", "float32")) == {
        "cpu",
        "instruction set cap",
        "oneDNN",
        "GPUs",
    }


def test_the_library_imports_no_tensorflow_until_it_is_used(tmp_path):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")
    code = "from cnn import archive, augmentation, engine, model, runtime; import stages.train"

    environment = ISOLATED | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment)

    assert done.returncode == 0


def test_an_operation_runs_on_one_thread_as_many_as_there_are_cores_and_deterministically(tf):
    from tensorflow.python.framework import config

    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    assert tf.config.threading.get_inter_op_parallelism_threads() == runtime.cores()
    assert config.is_op_determinism_enabled()


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert runtime.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert runtime.cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert runtime.cores() == 1


def test_every_source_of_chance_is_seeded(tf):
    import keras

    drawn = []
    for _ in range(2):
        runtime.start_tensorflow(seed=7)
        drawn.append(
            (np.random.random(), float(keras.random.uniform(())), float(tf.random.uniform(())))
        )

    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])
def test_the_precision_is_keras_dtype_policy(tf, precision):
    import keras

    runtime.start_tensorflow(1, "native", precision)

    assert keras.config.dtype_policy().name == precision


TRAIN = """
import hashlib, os, sys
from cnn import runtime

number = int(sys.argv[1])
if number == 1:  # as `taskset` does
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
elif number:
    runtime.cores = lambda: number
runtime.start_tensorflow(3)

import numpy as np
from cnn import augmentation, engine, model

rng = np.random.default_rng(0)
images, labels = rng.random((120, 12, 12, 1), np.float32), rng.integers(0, 3, 120)
form = model.NetworkParams(filters=(8, 8), kernel_size=3, dense_units=32, dropout=0.3)
network = model.build(form, (12, 12, 1), 3)
network.compile("adam", runtime.keras.losses.SparseCategoricalCrossentropy())
moves = augmentation.AugmentationParams(shift=2.0, rotation=9.0, shear=0.1, scale=0.1, fill=0.0)
epoch = engine.compiled_epoch(network, images, labels, 50, 4, seed=3, moves=moves)
told = epoch(rng.permutation(120))
model.PREDICTION_BATCH = engine.VALIDATION_BATCH = 32
told += engine.compiled_validation(network, *map(engine.in_tensorflow, (images, labels)))()
arrays = [*told, *network.get_weights(), model.predict(network, images)]
print(*(hashlib.md5(np.asarray(array)).hexdigest() for array in arrays))
keras = runtime.keras
print(keras.config.backend(), keras.config.floatx(), keras.config.epsilon(),
      keras.config.image_data_format(), float(told[0]) < 9)
"""


def test_one_core_those_here_and_eight_threads_give_the_same_bytes_whatever_the_users_keras(
    tmp_path,
):
    """A training with dropout and moves, a validation, a prediction of several batches."""
    config = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(config | {"backend": "jax"}))
    told = []
    for number, more in ((1, {}), (0, {}), (8, {"KERAS_HOME": str(tmp_path)})):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(number)],
            cwd=ROOT,
            env=ISOLATED | more,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""  # nor does TensorFlow say anything
        told.append(done.stdout)

    assert told[1:] == told[:1] * 2
    hashes, settings = told[0].splitlines()
    assert len(set(hashes.split())) == 13  # losses and accuracies, eight weights, probabilities
    assert settings == "tensorflow float32 1e-07 channels_last True"


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """Let Linux tell of another CPU."""
    real = runtime._cpu

    def call(text: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(runtime, "_cpu", lambda: real(path))

    return call


HASWELL = "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 60\nflags: sse4_1 avx avx2 fma\n"
GENOA = "vendor_id: AuthenticAMD\nflags: avx avx2 fma avx512f avx512_vnni avx512_bf16\n"


def test_the_portable_environment_is_the_same_on_every_cpu_with_avx2(cpu, monkeypatch):
    told = []
    for text, cores, python in ((HASWELL, 1, "3.11.7"), (GENOA, 64, "3.13.0")):
        cpu(text)
        monkeypatch.setattr(runtime, "cores", lambda cores=cores: cores)
        monkeypatch.setattr("platform.python_version", lambda python=python: python)
        told.append(runtime.environment("avx2", "float32"))

    assert told[0] == told[1]
    assert list(told[0]) == [
        "tensorflow",
        "keras",
        "numpy",
        "h5py",
        "system",
        "precision",
        "instruction set",
    ]
    assert told[0]["instruction set"] == "avx2"
    assert told[0]["precision"] == "float32"
    assert os.uname().nodename not in told[0].values()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 58\nflags: sse4_1 avx fma\n",
            {"cpu": "GenuineIntel 6 58", "instruction set": "sse4_1 avx fma"},
        ),
        (HASWELL.replace(" fma", ""), {"instruction set": "sse4_1 avx avx2"}),
        ("Features: fp asimd sve\n", {"instruction set": "asimd sve"}),
    ],
    ids=["no AVX2", "no FMA", "ARM"],
)
def test_a_cpu_without_avx2_is_named(cpu, text, expected):
    cpu(text)

    environment = runtime.environment("avx2", "float32")

    assert environment["cpu"]
    assert expected.items() <= environment.items()


def test_the_cpu_is_the_first_one_that_linux_tells(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)

    assert runtime._cpu(path) == {
        "cpu": "GenuineIntel 6 143",
        "instruction set": "sse4_1 avx avx2 avx512f amx_bf16",
    }


def test_the_cpu_of_an_arm_machine_is_told(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n")

    told = runtime._cpu(path)

    assert told["instruction set"] == "asimd bf16 sve"
    assert told["cpu"]


def test_without_cpuinfo_the_cpu_is_told_as_far_as_it_goes(tmp_path):
    told = runtime._cpu(tmp_path / "missing")

    assert told["cpu"]
    assert told["instruction set"] == "unknown"


@pytest.mark.parametrize(
    ("features", "precision", "warned"),
    [
        ("avx2 fma", "mixed_bfloat16", True),
        ("avx2 fma", "float32", False),
        ("avx2 avx512_bf16", "mixed_bfloat16", False),
        ("asimd bf16", "mixed_bfloat16", False),
        ("unknown", "mixed_bfloat16", False),
    ],
)
def test_a_cpu_without_bfloat16_is_told_where_it_is_asked_for(
    monkeypatch, capsys, features, precision, warned
):
    monkeypatch.setattr(runtime, "_cpu", lambda: {"instruction set": features})

    runtime.warn_of_slow_bfloat16(precision)

    errors = capsys.readouterr().err
    assert errors.startswith("warning: this CPU has no bfloat16 arithmetic") == warned
    assert errors.count("\n") == warned


def test_what_c_code_says_is_kept_from_the_terminal_and_python_speaks_again(capfd):
    with runtime.silence():
        os.write(2, b"a note of a library's")
    os.write(2, b"after")

    assert capfd.readouterr().err == "after"


def test_a_look_at_what_a_module_holds_imports_nothing():
    late = runtime._Late("no_such_module")

    assert not hasattr(late, "_mock_name")
    with pytest.raises(ModuleNotFoundError):
        _ = late.anything
