"""Read a section of params.yaml into a typed, frozen object, or refuse it in one line.

Each stage declares its own parameters as a subclass of `Section` and calls `load`. Also here: the
one exception for what the user can mend, and `run`, which turns it into a line on stderr.
"""

import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo


class UserError(Exception):
    """What the user can mend, in one line: a bad value, a missing or damaged file."""


def run(main: Callable[[], int | None]) -> int:
    """Call `main`; print a UserError as one line on stderr. Returns the exit code, 0 or 1."""
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


class Section(BaseModel):
    """A section of params.yaml: strict types, no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where 1e-05 is a string; DVC writes and reads YAML 1.2."""


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), "-+.0123456789"
)

SectionT = TypeVar("SectionT", bound=Section)


def load(path: str | Path, name: str, section_type: type[SectionT]) -> SectionT:
    """Return section `name` of the YAML file `path` as a `section_type`.

    Raises
    ------
    UserError
        The file cannot be read, the section is missing, or a key is unknown, missing, of the wrong
        type or out of its range. The message names the key, the value and what is allowed.
    """
    try:
        document = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Yaml12Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    # PyYAML lets a ValueError of Python's through for a date such as 2026-13-45.
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not isinstance(document.get(name), dict):
        raise UserError(f"{path}: section '{name}' is missing or has no keys")
    try:
        return section_type.model_validate(document[name])
    except ValidationError as error:
        problems = [_explain(name, section_type, detail) for detail in error.errors()]
        # A list that lacks two items is one problem.
        raise UserError(f"{path}: {'; '.join(dict.fromkeys(problems))}") from None


def _explain(name: str, section_type: type[Section], detail: Any) -> str:
    """One refusal of pydantic's in the project's words: key, value, what is allowed."""
    key, *index = detail["loc"]
    fields = section_type.model_fields
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        near = difflib.get_close_matches(str(key), fields, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(fields)}"
        return f"unknown key '{name}.{key}'; {hint}"
    if detail["type"] == "missing":
        if not index:
            return f"key '{name}.{key}' is missing; allowed: {_allowed(fields[key])}"
        index = []  # an item is missing: show the list that is too short
    dotted = ".".join(str(part) for part in (name, key, *index))
    return f"{dotted} is {detail['input']!r}; allowed: {_allowed(fields[key])}"


def _allowed(field: FieldInfo) -> str:
    """Say in words what `field` admits: its type and its bounds."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(get_args(field.annotation))
    items = get_args(field.annotation)
    if items:
        item = FieldInfo.from_annotation(items[0])
        return f"a list of {len(items)}, each {_allowed(item)}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{word} {getattr(constraint, attribute):g}"
        if isinstance(getattr(constraint, attribute), float)
        else f"{word} {getattr(constraint, attribute)}"
        for constraint in field.metadata
        for attribute, word in words.items()
        if hasattr(constraint, attribute)
    ]
    kind = "a whole number" if field.annotation is int else "a number"
    return " ".join([kind, " and ".join(bounds)])
