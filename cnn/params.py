"""Read a section of params.yaml into a typed, frozen object, or refuse it in one line.

A parameter is declared beside the code that uses it, in a subclass of `Section`; a stage puts its
section together from those and calls `load`.
"""

import difflib
import math
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML, YAMLError

from cnn.errors import UserError, brief, reason

SECTIONS = ("fetch", "prepare", "train", "evaluate")  # each named as the stage that reads it
# Of a file, where the reader takes a second; dvc.lock has 12,000 characters and no bracket.
MOST_TEXT, MOST_OPEN, MOST_VALUES = 2**18, 1000, 2**18
# DVC removes a stage's outputs before the stage can refuse; they are in its cache.
CURE = "correct it and run 'dvc repro', which also brings back what DVC removed"


class Section(BaseModel):
    """A section of params.yaml: strict types, no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def read_yaml(path: str | Path) -> Any:
    """Return the document in a YAML 1.2 file, read as DVC reads it, so that its record is true.

    In YAML 1.1, which most readers still speak, 010 is 8 and 1e-05 a string. A key that stands
    twice is refused, and what would take seconds to read or to tell of.

    Raises
    ------
    UserError
        The file cannot be read or is no YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if len(text) > MOST_TEXT:
            raise UserError(f"{path}: has {len(text):,} characters, at most {MOST_TEXT:,}; {CURE}")
        if text.count("[") + text.count("{") > MOST_OPEN:
            raise UserError(f"{path}: has more than {MOST_OPEN:,} brackets; {CURE}")
        document = YAML(typ="safe").load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: {error}; {CURE}") from None
    # A ValueError of Python's comes through for a date such as 2026-13-45.
    except (YAMLError, ValueError, RecursionError) as error:
        what = getattr(error, "problem", None) or str(error)
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        told = brief(" ".join(what.split()), 200).strip("'\"")
        raise UserError(f"{path}: is not valid YAML: {told}{where}; {CURE}") from None
    if _values(document, {}) > MOST_VALUES:
        raise UserError(f"{path}: unfolds to more than {MOST_VALUES:,} values; {CURE}")
    return document


def _values(node: object, counts: dict[int, float]) -> float:
    """Return how many values a node unfolds to where YAML's aliases repeat it; itself: infinite."""
    if not isinstance(node, (list, dict)):
        return 1
    if id(node) not in counts:
        counts[id(node)] = math.inf  # until it is known
        each = node.values() if isinstance(node, dict) else node
        counts[id(node)] = 1 + sum(_values(value, counts) for value in each)
    return counts[id(node)]


def read_section(path: str | Path, name: str) -> dict[str, Any]:
    """Return section `name` of the YAML file `path` as it stands; every section must be known.

    Raises
    ------
    UserError
        The file cannot be read, a section is unknown, or this one is missing.
    """
    document = read_yaml(path)
    if not isinstance(document, dict) or not isinstance(document.get(name), dict):
        raise UserError(f"{path}: section '{name}' is missing or has no keys; {CURE}")
    for section in document:
        if section not in SECTIONS:
            raise UserError(f"{path}: unknown section {_near(section, SECTIONS)}; {CURE}")
    return document[name]


def load(path: str | Path, name: str, section_type: type[SectionT]) -> SectionT:
    """Return section `name` of the YAML file `path` as a `section_type`.

    Raises
    ------
    UserError
        As `read_section`; or a key is unknown, missing, of the wrong type or out of its range. The
        message names the key, the value, what is allowed and what to do.
    """
    section = read_section(path, name)
    try:
        return section_type.model_validate(section)
    except ValidationError as error:
        first: dict[object, Any] = {}  # of each key: a wrong item can make the list too short
        for detail in error.errors():
            first.setdefault(detail["loc"][0], detail)
        problems = [_explain(name, section_type, detail) for detail in first.values()]
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path}: {'; '.join(problems[:5])}{more}; {CURE}") from None


def _near(key: object, known: tuple[str, ...] | dict[str, Any]) -> str:
    """Name an unknown key, and the known one that it may be meant for."""
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"{brief(str(key))}; {hint}"


def _explain(name: str, section_type: type[Section], detail: Any) -> str:
    """One refusal of pydantic's in the project's words: key, value, what is allowed."""
    key, *index = detail["loc"]
    fields = section_type.model_fields
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return f"unknown key in section '{name}': {_near(key, fields)}"
    if detail["type"] == "missing":
        return f"key '{name}.{key}' is missing; allowed: {_allowed(fields[key])}"
    dotted = ".".join(str(part) for part in (name, key, *index))
    return f"{dotted} is {brief(detail['input'])}; allowed: {_allowed(fields[key])}"


def _allowed(field: FieldInfo) -> str:
    """Say in words what `field` admits: its description, or its type and its bounds."""
    if field.description:
        return field.description
    if get_origin(field.annotation) is Literal:
        return " or ".join(map(str, get_args(field.annotation)))
    if get_origin(field.annotation) is tuple:
        item, _ = get_args(field.annotation)
        return f"a list of {_length(field)}, each {_allowed(FieldInfo.from_annotation(item))}"
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


def _length(field: FieldInfo) -> str:
    """Say how many items a list may have."""
    bounds = {"min_length": 0} | {
        name: getattr(constraint, name)
        for constraint in field.metadata
        for name in ("min_length", "max_length")
        if hasattr(constraint, name)
    }
    return f"{bounds['min_length']} to {bounds['max_length']}"
