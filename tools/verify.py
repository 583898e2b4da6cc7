"""Prove that the committed results are what the committed code gives: `make verify`.

    python -m tools.verify

Clones HEAD into a temporary folder, runs the whole pipeline there from nothing and compares every
output with the committed dvc.lock.

Exit code 0: every output has the recorded bytes, whatever the machine; or the model was trained by
the engine `keras`, which promises no bytes, and its accuracy lies within the recorded interval.
Exit code 1 otherwise.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cnn.base.errors import UserError
from cnn.base.files import read_json
from cnn.base.params import read_yaml
from cnn.base.program import environment_with_python, run
from tools.compare.revisions import git

Lock = dict[str, dict[str, Any]]  # stage: its entry in dvc.lock


def outputs(lock: Lock) -> dict[str, str]:
    """Return {path: hash} of every output of every stage."""
    return {out["path"]: out["md5"] for entry in lock.values() for out in entry.get("outs", [])}


def causes(recorded: Lock, obtained: Lock) -> list[str]:
    """Return what the two runs were given that differs: stages, commands, code, parameters.

    A dependency that is an output of another stage is a consequence, not a cause.
    """
    found = [
        f"stage '{name}' is in only one of the two runs" for name in recorded.keys() ^ obtained
    ]
    for stage in recorded.keys() & obtained:
        old, new = recorded[stage], obtained[stage]
        if old["cmd"] != new["cmd"]:
            found.append(f"command of stage '{stage}': recorded {old['cmd']!r}, now {new['cmd']!r}")
        for path in _different(_given(old), _given(new)):
            if path not in outputs(recorded):
                found.append(f"{path} (stage '{stage}') is not the one that was recorded")
        old_params, new_params = _flat(old.get("params", {})), _flat(new.get("params", {}))
        for key in _different(old_params, new_params):
            found.append(f"{key}: recorded {old_params.get(key)}, now {new_params.get(key)}")
    return sorted(found)


def _given(entry: dict[str, Any]) -> dict[str, str]:
    return {dependency["path"]: dependency["md5"] for dependency in entry.get("deps", [])}


def _flat(params: dict[str, dict[str, Any]]) -> dict[str, object]:
    """Return {'section.key': value} of a lock entry's {file: {section: {key: value}}}.

    Where a stage names one key, DVC records {file: {'section.key': value}}.
    """
    found: dict[str, object] = {}
    for file in params.values():
        for section, values in file.items():
            if isinstance(values, dict):
                found |= {f"{section}.{key}": value for key, value in values.items()}
            else:
                found[section] = values
    return found


def _different(old: dict, new: dict) -> list[str]:
    return sorted(key for key in old.keys() | new if old.get(key) != new.get(key))


def table(recorded: dict[str, str], obtained: dict[str, str]) -> str:
    """Return one line per output: path, recorded hash, obtained hash, whether they are the same."""
    rows = [("output", "recorded", "obtained", "")]
    for path in sorted(recorded.keys() | obtained):
        old, new = recorded.get(path, "none"), obtained.get(path, "none")
        rows.append((path, old, new, "same" if old == new else "DIFFERS"))
    return "\n".join(f"{path:<30} {old:<32} {new:<32} {word}" for path, old, new, word in rows)


def within_interval(recorded: Path, obtained: Path) -> tuple[bool, str]:
    """Tell whether the accuracy in a reports folder lies in the recorded interval, and a line."""
    old, new = (read_json(folder / "evaluate/metrics.json") for folder in (recorded, obtained))
    low, high = old["accuracy_low"], old["accuracy_high"]
    stands = low <= new["accuracy"] <= high
    word = "in" if stands else "NOT in"
    return stands, (
        f"accuracy {new['accuracy']:.4f}, recorded {old['accuracy']:.4f}: {word} its 95 % "
        f"interval, {low:.4f} to {high:.4f}"
    )


def verdict(recorded: Path, obtained: Path) -> tuple[bool, str]:
    """Compare two checkouts after their runs; return whether the results stand, and a report."""
    old_lock, new_lock = (
        read_yaml(folder / "dvc.lock")["stages"] for folder in (recorded, obtained)
    )
    old, new = outputs(old_lock), outputs(new_lock)
    report = [table(old, new), ""]
    if found := causes(old_lock, new_lock):
        report += [
            "FAILED: dvc.lock records another run than what is committed:",
            *(f"  {cause}" for cause in found),
            "Run 'make repro' and commit dvc.lock and reports/ with the change.",
        ]
        return False, "\n".join(report)
    if old == new:
        report.append(f"Verified: all {len(old)} outputs have the recorded bytes.")
        return True, "\n".join(report)

    old_environment, new_environment = (
        read_json(folder / "reports/train/environment.json") for folder in (recorded, obtained)
    )
    differences = [
        f"  {key}: recorded {old_environment.get(key)}, here {new_environment.get(key)}"
        for key in _different(old_environment, new_environment)
    ]
    if old_environment["engine"] == "exact":
        report += [
            "FAILED: outputs differ, which they may on no machine: something leaks into a result.",
            *differences,
        ]
        return False, "\n".join(report)
    stands, line = within_interval(recorded / "reports", obtained / "reports")
    report += ["The engine keras promises no bytes:", *differences, line]
    report.append("Verified by the interval." if stands else "FAILED.")
    return stands, "\n".join(report)


def clone(source: Path, target: Path) -> Path:
    """Clone the committed state of the repository that `source` is in; return its folder there."""
    top = Path((git("rev-parse", "--show-toplevel", at=source) or b".").decode().strip())
    project = target / (git("rev-parse", "--show-prefix", at=source) or b"").decode().strip()
    try:
        subprocess.run(
            ["git", "clone", "--quiet", "--no-hardlinks", top, target],
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise UserError(f"{top}: cannot be cloned: {error.stderr.strip()}") from None
    if not (project / "dvc.lock").is_file():
        raise UserError("dvc.lock is not committed; run 'make repro' and commit what it gives")
    return project


def dvc(folder: Path, *words: str) -> None:
    """Run a command of DVC's in `folder`, its output shown as it comes."""
    try:
        environment = environment_with_python() | {"DVC_SITE_CACHE_DIR": f"{folder}/.dvc/tmp/site"}
        subprocess.run(["dvc", *words], cwd=folder, env=environment, check=True)
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"'dvc {' '.join(words)}' failed in a fresh clone (exit code {error.returncode})"
        ) from None


def reproduce(folder: Path, cache: Path) -> None:
    """Run every stage in `folder` with an empty cache.

    Published data is fetched, each array checked against its hash. One's own comes from `cache`,
    DVC's cache here, which DVC reads as a remote, checking what it takes.
    """
    # The user's own DVC configuration may share a cache between projects.
    (folder / ".dvc/config.local").write_text(
        f"[cache]\n    dir = cache\n['remote \"here\"']\n    url = {cache}\n    verify = true\n",
        encoding="utf-8",
    )
    raw = read_yaml(folder / "params.yaml")["prepare"]["raw"]
    if (folder / f"{raw}.dvc").is_file():
        dvc(folder, "pull", "--remote", "here", f"{raw}.dvc")
    dvc(folder, "repro", "--force")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    if git("status", "--porcelain", "--", "."):
        print("note: the committed state is verified; changes that are not committed are left out")
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        recorded, obtained = (
            clone(Path(), Path(folder, name)) for name in ("recorded", "obtained")
        )
        command = ["dvc", "cache", "dir"]
        environment = environment_with_python()
        cache = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        reproduce(obtained, Path(cache.stdout.strip()))
        stands, report = verdict(recorded, obtained)
    print(f"\n{report}")
    return 0 if stands else 1


if __name__ == "__main__":
    raise SystemExit(run(main))
