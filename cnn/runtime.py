"""Start TensorFlow so that the same inputs give the same bytes, and say what the bytes depend on.

What the surroundings could change is fixed here before TensorFlow is imported: switches in the
environment, Keras' configuration file, threads, seeds, the choice of non-deterministic kernels.
"""

import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

# Switches of TensorFlow and the libraries below it: with one of them set, a run would give other
# numbers than the one on record.
SWITCHES = ("TF_", "XLA_", "ONEDNN_", "DNNL_", "KERAS_", "OMP_", "KMP_", "MKL_", "CUDA_VISIBLE")
# What stays all the same. KERAS_HOME is a place, TF_CPP_ sets how much is logged, TF_CONFIG names
# the workers, TF_CLI_ and TF_VAR_ are Terraform's. With the native instruction set the user may
# choose what of the machine is used; it is recorded.
HONOURED = ("KERAS_HOME", "TF_CPP_", "TF_CONFIG", "TF_CLI_", "TF_VAR_")
HONOURED_NATIVE = ("ONEDNN_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS", "CUDA_VISIBLE")

# oneDNN by name: TensorFlow switches it off by itself on a CPU without AVX-512 VNNI, and Eigen's
# kernels, which it uses then, follow the size of the CPU's caches.
NATIVE = {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}
# What makes every x86-64 CPU with AVX2 compute the same; a GPU would compute otherwise.
PORTABLE = NATIVE | {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": "-1"}

# Keras imports these where they are installed, for wrappers and pictures that no stage uses.
# Without them they start in two thirds of the time.
OPTIONAL = ("matplotlib", "pandas", "PIL", "scipy", "sklearn")

# The CPU features that choose between oneDNN's kernels, from the least to the greatest.
CPU_FEATURES = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


class _Late:
    """A module that is imported when it is first used.

    So the library's modules name TensorFlow and Keras as if they had imported them, and yet a bad
    parameter is refused before the import, and `start_tensorflow` sets first what must be set.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        if attribute.startswith("_"):  # pytest looks for some in all that a module holds
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


tf, keras = _Late("tensorflow"), _Late("keras")


def cores() -> int:
    """Return how many cores this process may use."""
    available = getattr(os, "sched_getaffinity", None)  # Linux; knows of taskset and cpusets
    return len(available(0)) if available else os.cpu_count() or 1


def start_tensorflow(seed: int, instruction_set: str = "avx2", precision: str = "float32") -> None:
    """Import TensorFlow in a known state, with every source of chance seeded or forbidden.

    Each operation runs on one thread, so that no sum is split among threads, and as many operations
    side by side as there are cores: their number changes no byte.

    Parameters
    ----------
    seed : Python's, numpy's and TensorFlow's.
    instruction_set : "avx2", the same bytes on every x86-64 CPU that has it, or "native", what the
        machine has, a GPU included.
    precision : Keras' dtype policy, "float32" or "mixed_bfloat16".
    """
    portable = instruction_set == "avx2"
    ours, honoured = (PORTABLE, HONOURED) if portable else (NATIVE, HONOURED + HONOURED_NATIVE)
    for name in sorted(os.environ):
        if not name.startswith(SWITCHES) or name.startswith(honoured):
            continue
        if os.environ[name] != ours.get(name):
            print(
                f"warning: {name}={os.environ.pop(name)} is ignored: the pipeline sets its own",
                file=sys.stderr,
            )
    for name, value in ours.items():
        os.environ.setdefault(name, value)
    with silence(), _hidden(OPTIONAL), uncollected():
        import_module("keras")
        tf.config.list_physical_devices()  # CUDA complains here where there is none
    if portable:
        tf.config.set_visible_devices([], "GPU")  # of any maker

    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(precision)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(cores())
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@contextmanager
def silence() -> Iterator[None]:
    """Send what C code writes to standard error nowhere.

    No setting keeps TensorFlow's start-up notes off the terminal, or libtiff's complaints.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector still in a block that imports much.

    It would look again and again through all that the modules make, which they keep: a quarter of
    the time that TensorFlow and Keras take to start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Let `import` fail for these modules, unless they are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # None is how Python marks a module as not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def lacks_bfloat16() -> bool:
    """Tell whether this CPU is known to have no bfloat16 arithmetic."""
    features = _cpu()["instruction set"].split()
    return features != ["unknown"] and not BFLOAT16.intersection(features)


def warn_of_slow_bfloat16(precision: str) -> None:
    """Say in one line that this CPU has no bfloat16 arithmetic, if it is asked for."""
    if precision == "mixed_bfloat16" and lacks_bfloat16():
        print(
            "warning: this CPU has no bfloat16 arithmetic (no avx512_bf16, amx_bf16 or bf16): "
            "train.precision mixed_bfloat16 is slower here than float32",
            file=sys.stderr,
        )


def environment(instruction_set: str, precision: str) -> dict[str, str]:
    """Return {name: value} of what the bytes depend on beside the files that dvc.lock records.

    With "avx2" it is the same on every x86-64 Linux whose CPU has it. Python, glibc and the number
    of cores are not in it: they change no byte (docs/reproducibility.md).
    """
    cpu = _cpu()
    common = {
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "h5py")},
        "system": f"{platform.system()} {platform.machine()}",
        "precision": precision,
    }
    if instruction_set == "avx2":
        has = {"avx2", "fma"}.issubset(cpu["instruction set"].split())
        return common | ({"instruction set": "avx2"} if has else cpu)
    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    return common | {
        **cpu,
        "instruction set cap": os.environ.get("ONEDNN_MAX_CPU_ISA", "none"),
        "oneDNN": os.environ["TF_ENABLE_ONEDNN_OPTS"],  # TensorFlow reads more than 0 and 1
        "GPUs": ", ".join(gpus) or "none",
    }


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return the CPU's type and its features that matter, as Linux tells them."""
    try:
        first = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {"cpu": platform.processor() or "unknown", "instruction set": "unknown"}
    told = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    features = set(told.get("flags", told.get("Features", "")).split())
    kind = [told.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    return {
        "cpu": " ".join(kind).strip() or platform.machine(),
        "instruction set": " ".join(name for name in CPU_FEATURES if name in features),
    }
