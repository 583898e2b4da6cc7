"""What the bytes of a training depend on: parameters, data, code and environment, by name."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cnn.errors import UserError
from cnn.kernels import build
from cnn.params import Section

DIGITS = 16  # hexadecimal, of a SHA-256: two of a million different files agree with 3e-8


def digest(path: str | Path) -> str:
    """Return the first digits of a file's SHA-256; a UserError where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; run 'dvc repro'") from None


def code(*programs: str | Path) -> dict[str, str]:
    """Return {"cnn.engine": digest, ...} of the library as it is imported, and of the programs."""
    library = {
        name: module.__file__
        for name, module in sorted(sys.modules.items())
        if name.startswith("cnn.") and getattr(module, "__file__", None)
    }
    named = {f"{path.parent.name}.{path.stem}": path for path in map(Path, programs)}
    return {name: digest(path) for name, path in (library | named).items()}


def of_training(
    params: Section,
    data: Mapping[str, str | Path],
    programs: Iterable[str | Path],
    environment: Mapping[str, str],
) -> dict[str, str]:
    """Return {name: value} of all that the bytes of a training depend on.

    Two runs for which it is equal give the same bytes; where it is not, the names say why.

    Parameters
    ----------
    params : section `train`; a name is that of a parameter, as in "train.seed". Whether a training
        goes on changes no byte.
    data : {what it is: its file}, by what it is since the place may differ between machines.
    programs : source files beside the library's.
    environment : as `runtime.environment` gives it.
    """
    return {
        **{
            f"train.{name}": json.dumps(value)
            for name, value in params.model_dump(exclude={"resume"}).items()
        },
        **{name: digest(path) for name, path in data.items()},
        **code(*programs),
        "cnn.kernels' C": build.digest(),
        **environment,
    }


def key(identity: Mapping[str, str]) -> str:
    """Return 64 hexadecimal digits that are equal where identities are (SHA-256)."""
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names, sorted, under which two identities have other values."""
    return sorted(name for name in one.keys() | other if one.get(name) != other.get(name))
