"""What a stage of dvc.yaml imports of this project at any depth, and what its dependencies hold."""

import ast
from functools import cache
from pathlib import Path

import pathspec
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("cnn", "distributed", "stages", "tools", "handwriting", "benchmarks")
KERNELS = "cnn/kernels"  # whose module loads what is built of its C files
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = PIPELINE["stages"]


def file_of(module: str, root: Path = ROOT) -> str | None:
    """Return the file of a module as a path; None for what is no module or has no code."""
    path = Path(*module.split("."))
    if (root / path).with_suffix(".py").is_file():
        return f"{path}.py"
    return f"{path}/__init__.py" if has_code(root / path / "__init__.py") else None


def has_code(path: Path) -> bool:
    """Tell whether a file exists and holds more than a docstring: most __init__.py do not."""
    return path.is_file() and len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


@cache
def imports(path: str, root: Path = ROOT) -> set[str]:
    """Return the project's files that a file imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            names = node.module.split(".")
            modules = [".".join(names[:n]) for n in range(1, len(names) + 1)]
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {file_of(module, root) for module in modules}
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] in PACKAGES for alias in node.names), path
    return found - {None}


@cache
def closure(stage: str) -> frozenset[str]:
    """Return the files whose bytes a stage runs: its own, what that imports, the kernels' C."""
    found, waiting = set(), {f"stages/{stage}.py"}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= imports(path) - found
    if f"{KERNELS}/__init__.py" in found:
        found |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob(f"{KERNELS}/*.[ch]")}
    return frozenset(found)


def is_code(dependency: str) -> bool:
    return dependency.split("/")[0] in PACKAGES


def files_below(dependencies: list[str]) -> set[str]:
    """Return the files of code that DVC hashes for these dependencies."""
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".dvcignore").read_text().splitlines())
    found = set()
    for dependency in filter(is_code, dependencies):
        path = ROOT / dependency
        paths = [path] if path.is_file() else filter(Path.is_file, path.rglob("*"))
        names = {each.relative_to(ROOT).as_posix() for each in paths}
        found |= {name for name in names if not ignored.match_file(name)}
    return {name for name in found if Path(name).name != "__init__.py" or has_code(ROOT / name)}


def outputs(stage: str) -> dict[str, dict]:
    """Return {path: properties} of a stage's outs, metrics and plots."""
    found = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in STAGES[stage].get(kind, []):
            found |= entry if isinstance(entry, dict) else {entry: {}}
    return found
