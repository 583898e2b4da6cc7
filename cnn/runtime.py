"""TensorFlow and Keras, imported where a model of theirs is needed, and what the machine is."""

import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

# Keras imports these where they are installed, for wrappers and pictures that no stage uses.
# Without them they start in two thirds of the time.
OPTIONAL = ("matplotlib", "pandas", "PIL", "scipy", "sklearn")


class _Late:
    """A module that is imported when it is first used.

    So the library's modules name TensorFlow and Keras as if they had imported them, and yet a bad
    parameter is refused before the import.
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


def start_tensorflow(seed: int = 0, precision: str = "float32") -> None:
    """Import TensorFlow and Keras, quietly, and seed what they draw.

    Parameters
    ----------
    seed : Python's, numpy's and TensorFlow's.
    precision : Keras' dtype policy, "float32" or "mixed_bfloat16".
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # it tells of its memory, later too
    with silence(), _hidden(OPTIONAL), uncollected():
        import_module("keras")
        tf.config.list_physical_devices()  # CUDA complains here where there is none
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(seed)


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


def environment(engine: str, precision: str = "float32") -> dict[str, str]:
    """Return {name: value} of what a model depends on beside the files that dvc.lock records.

    With the engine "exact" it names neither CPU nor system: they change no byte. "keras" promises
    nothing, and so it names the machine.
    """
    names = ("numpy", "h5py") if engine == "exact" else ("tensorflow", "keras", "numpy", "h5py")
    common = {"engine": engine, **{name: version(name) for name in names}}
    if engine == "exact":
        return common
    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    return common | {
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": str(cores()),
        "GPUs": ", ".join(gpus) or "none",
    }


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's type as Linux tells it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    kind = [told.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    return " ".join(kind).strip() or platform.machine()
