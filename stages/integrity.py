"""Notice a file that is not the one DVC recorded, and write files whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from stages.params import UserError

LOCK = Path("dvc.lock")


def md5(path: str | Path) -> str:
    """Return the MD5 of a file as DVC records it, 32 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def recorded_outputs(lock: Path = LOCK) -> dict[str, tuple[str, str]]:
    """Return {output path: (stage that makes it, MD5)} as the lock file has it; {} without one."""
    try:
        document = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{lock}: cannot be read ({reason}); run 'git checkout {lock}'") from None
    return {
        output["path"]: (stage, output["md5"])
        for stage, entry in (document or {}).get("stages", {}).items()
        for output in entry.get("outs", [])
    }


def check_recorded(path: str | Path) -> None:
    """Refuse a file that exists but is not the one that dvc.lock records for its path.

    DVC trusts the size and times that it remembers for a file, so it does not see a damaged object
    in its cache (read-only, same size). Whoever reads the file does. A path unknown to dvc.lock, as
    in a test's temporary folder, passes.

    Raises
    ------
    UserError
        The file is missing or unreadable, or its MD5 differs from the recorded one.
    """
    try:
        obtained = md5(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; run 'dvc repro'") from None
    stage, expected = recorded_outputs().get(Path(path).as_posix(), ("", obtained))
    if obtained != expected:
        cached = Path(".dvc/cache/files/md5", expected[:2], expected[2:])
        raise UserError(
            f"{path}: is damaged or was changed by hand (md5 {obtained}, dvc.lock has {expected}); "
            f"run 'rm -f {path} {cached} && dvc repro --force {stage}'"
        )


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; put it in place when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
