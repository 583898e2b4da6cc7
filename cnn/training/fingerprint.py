"""What the bytes of a training depend on: parameters, data, code and environment, by name."""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.program import cores
from cnn.kernels import build
from cnn.training.params import TrainParams

DIGITS = 16  # hexadecimal, of a SHA-256: two of a million different files agree with 3e-8


def digest(path: str | Path) -> str:
    """Return the first digits of a file's SHA-256; a UserError where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; run 'dvc repro'") from None


def of_training(
    params: TrainParams,
    data: Mapping[str, str | Path],
    program: str | Path,
    environment: Mapping[str, str],
) -> dict[str, str]:
    """Return {name: value} of all that the bytes of a training depend on.

    Two runs for which it is equal give the same bytes; where it is not, the names say why.

    Parameters
    ----------
    params : a name is that of a parameter, as in "train.seed". Whether a training may be resumed
        changes no byte.
    data : {what it is: its file}, by what it is since the place may differ between machines.
    program : the source file of the stage; the library is named as it is imported.
    environment : as `environment` returns it.
    """
    values = params.model_dump(exclude={"resume"})
    modules = {
        name: digest(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.startswith(("cnn.", "distributed.")) and getattr(module, "__file__", None)
    }
    return {
        **{f"train.{name}": json.dumps(value) for name, value in values.items()},
        **{name: digest(path) for name, path in data.items()},
        **modules,
        "stages.train": digest(program),
        "cnn.kernels' C": build.digest(),
        **environment,
    }


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names, sorted, under which two fingerprints have other values."""
    return sorted(name for name in one.keys() | other if one.get(name) != other.get(name))


def environment(engine: str, precision: str = "float32") -> dict[str, str]:
    """Return {name: value} of what a model depends on besides the files that dvc.lock records.

    With the engine "exact" it names neither CPU nor system: they change no byte. "keras" promises
    nothing, and so it names the machine.
    """
    names = ("numpy", "h5py") if engine == "exact" else ("tensorflow", "keras", "numpy", "h5py")
    common = {"engine": engine, **{name: version(name) for name in names}}
    if engine == "exact":
        return common
    import tensorflow as tf

    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    return common | {
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": str(cores()),
        "GPUs": ", ".join(gpus) or "none",
    }


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's type as Linux reports it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    found = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    kind = [found.get(key, "") for key in ("vendor_id", "cpu family", "model")]
    return " ".join(kind).strip() or platform.machine()
