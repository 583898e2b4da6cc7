"""TensorFlow starts in a known state, and what the bytes depend on is told."""

import json
import os
import signal
import subprocess
import sys
import threading
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
    "name",
    ["TF_ENABLE_ONEDNN_OPTS", "ONEDNN_VERBOSE", "XLA_FLAGS", "OMP_NUM_THREADS", "KERAS_BACKEND"],
)
def test_a_switch_that_would_change_the_result_is_removed_with_a_warning(tf, clean, capsys, name):
    clean.setenv(name, "0")

    assert runtime.start_tensorflow(seed=1, threads=2) is None

    assert os.environ.get(name) in (None, "tensorflow")
    assert capsys.readouterr().err == (f"warning: {name}=0 is ignored: the pipeline sets its own\n")


def test_what_the_start_sets_itself_is_not_warned_of_at_the_next_one(tf, clean, capsys):
    for _ in range(2):
        runtime.start_tensorflow(seed=1, threads=2)

    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "TF_CPP_MIN_LOG_LEVEL", "KERAS_HOME"])
def test_what_changes_no_result_or_is_recorded_stays(tf, clean, capsys, name):
    clean.setenv(name, "AVX2")

    runtime.start_tensorflow(seed=1, threads=2)

    assert os.environ[name] == "AVX2"
    assert capsys.readouterr().err == ""


def test_the_cap_on_the_instruction_set_is_recorded(clean):
    assert runtime.environment(2, "float32")["instruction set cap"] == "none"
    clean.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert runtime.environment(2, "float32")["instruction set cap"] == "AVX2"


def test_the_library_imports_no_tensorflow_until_it_is_used(tmp_path):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")
    code = "from cnn import archive, augmentation, engine, model, runtime; import stages.train"

    environment = ISOLATED | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment)

    assert done.returncode == 0


def test_threads_are_pinned_and_operations_deterministic(tf):
    from tensorflow.python.framework import config

    assert tf.config.threading.get_intra_op_parallelism_threads() == 2
    assert tf.config.threading.get_inter_op_parallelism_threads() == 2
    assert config.is_op_determinism_enabled()


def test_every_source_of_chance_is_seeded(tf):
    import keras

    drawn = []
    for _ in range(2):
        runtime.start_tensorflow(seed=7, threads=2)
        drawn.append(
            (np.random.random(), float(keras.random.uniform(())), float(tf.random.uniform(())))
        )

    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])
def test_the_precision_is_keras_dtype_policy(tf, precision):
    import keras

    runtime.start_tensorflow(seed=1, threads=2, precision=precision)

    assert keras.config.dtype_policy().name == precision


def test_a_keras_configuration_file_of_the_user_changes_nothing_and_the_terminal_stays_quiet(
    tmp_path,
):
    config = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1}
    (tmp_path / "keras.json").write_text(json.dumps(config | {"backend": "jax"}))
    code = (
        "from cnn import runtime; runtime.start_tensorflow(1, 2); import keras; "
        "print(keras.config.backend(), keras.config.floatx(), keras.config.epsilon(), "
        "keras.config.image_data_format())"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=ISOLATED | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.stdout == "tensorflow float32 1e-07 channels_last\n"
    assert done.stderr == ""


def test_the_environment_names_what_the_bytes_depend_on_and_no_time_or_host():
    environment = runtime.environment(3, "mixed_bfloat16")

    assert list(environment) == [
        "python",
        "tensorflow",
        "keras",
        "numpy",
        "zlib",
        "system",
        "cpu",
        "instruction set",
        "instruction set cap",
        "threads",
        "precision",
    ]
    assert environment["threads"] == "3"
    assert environment["precision"] == "mixed_bfloat16"
    assert os.uname().nodename not in environment.values()
    assert environment == runtime.environment(3, "mixed_bfloat16")


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


def test_ctrl_c_ends_the_process_while_the_main_thread_is_in_c():
    """Python's own handler would wait until the product is there: half a minute and more."""
    code = (
        "import numpy as np\n"
        "from cnn import errors, runtime\n"
        "def main():\n"
        "    square = np.ones((9000, 9000))\n"
        "    with runtime.ending_promptly():\n"
        "        print('ready', flush=True)\n"
        "        np.linalg.multi_dot([square] * 12)\n"
        "    print('finished', flush=True)\n"
        "raise SystemExit(errors.run(main))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()

    assert (output, errors) == ("", "interrupted: what was not finished is not written\n")
    assert process.returncode == 130


def test_what_ends_by_itself_ends_as_ever():
    """A handler that was set before is back, and nothing is left of the watching thread."""
    before = threading.active_count()

    with runtime.ending_promptly():
        assert threading.active_count() == before + 1

    assert threading.active_count() == before
    assert signal.set_wakeup_fd(-1) == -1
