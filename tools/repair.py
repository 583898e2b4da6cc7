"""Remove what is damaged, so that `dvc repro` makes it again.

    python -m tools.repair

Looks at every object in DVC's cache, wherever that is, and removes those whose bytes are not those
that their name says; DVC itself trusts a read-only object. Then removes each output in dvc.lock
that fails its own checksums, and DVC's list of locks where a kill left it half written. What was
changed by hand and is whole, it leaves alone. Says what it removed, and of which commit that was an
output; `dvc repro` brings it back, there.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from ruamel.yaml import YAML

from cnn.base.errors import UserError
from cnn.base.params import read_yaml
from cnn.base.program import run
from tools.compare.revisions import git

LOCK = Path("dvc.lock")
LOCKS = Path(".dvc/tmp/rwlock")  # who reads and writes what; DVC refuses to run where it is damaged


def md5(path: Path) -> str:
    """Return the MD5 of a file as DVC records it, 32 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def damaged_objects(cache: Path) -> list[Path]:
    """Return the objects of a cache whose MD5 is not their name: files/md5/XX/YYYY..."""
    objects = sorted((cache / "files" / "md5").glob("[0-9a-f][0-9a-f]/*"))
    return [path for path in objects if md5(path) != f"{path.parent.name}{path.stem}"]


def recorded(digest: str) -> str:
    """Return ": PATH of commit COMMIT" for the first commit whose dvc.lock has an MD5, or ""."""
    try:
        found = (git("log", "--all", "--format=%h", f"-S{digest}", "--", str(LOCK)) or b"").split()
        text = git("show", f"{found[-1].decode()}:./{LOCK}") if found else None
    except UserError:  # a project without Git, or another user's
        return ""
    lock = YAML(typ="safe").load(text) if text else {"stages": {}}
    for entry in lock["stages"].values():
        for file in [*entry.get("outs", []), *entry.get("deps", [])]:
            if file.get("md5", "").removesuffix(".dir") == digest:
                return f": {file['path']} of commit {found[-1].decode()}"
    return ""


def is_damaged(path: Path) -> bool:
    """Tell whether a file that should be a zip (npz, keras) is none, or fails its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, zlib.error):
        return True


def damaged_outputs(lock: Path) -> list[Path]:
    """Return the outputs in a dvc.lock that are there and fail their own checksums."""
    document = read_yaml(lock) if lock.is_file() else {}
    paths = [
        Path(output["path"])
        for stage in document.get("stages", {}).values()
        for output in stage.get("outs", [])
    ]
    zips = [path for path in paths if path.suffix in (".npz", ".keras")]
    return [path for path in zips if path.is_file() and is_damaged(path)]


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()}: is no DVC project; run it where dvc.yaml is")
    dvc = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(dvc, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"DVC does not say where its cache is: {' '.join(done.stderr.split())}")
    try:
        if LOCKS.is_file():
            json.loads(LOCKS.read_text(encoding="utf-8"))
    except ValueError:
        LOCKS.unlink()
        print(f"removed {LOCKS}, which DVC had not finished writing when it was killed")
    # Before the outputs: one of them may be a link to an object.
    outputs, objects = damaged_outputs(LOCK), damaged_objects(Path(done.stdout.strip()))
    for path in outputs:
        path.unlink()
        print(f"removed {path}")
    for path in objects:
        path.unlink()
        print(f"removed {path}{recorded(path.parent.name + path.stem)}")
    print("run 'dvc repro' to make it again" if outputs or objects else "nothing is damaged")


if __name__ == "__main__":
    raise SystemExit(run(main))
