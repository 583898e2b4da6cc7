"""Read a section of params.yaml into a typed, frozen object, or refuse it in one line.

A parameter is declared next to the code that uses it, in a subclass of `Section`; a stage combines
those into its section and calls `load`. Its comment in params.yaml ends with what `allowed` says.
"""

import difflib
import math
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML, YAMLError

from cnn.base.errors import RUN, UserError, brief, reason

CORRECT = f"correct it {RUN}"
SECTIONS = ("fetch", "prepare", "train", "evaluate")  # each named as the stage that reads it
# Of a file, where the reader takes a second; dvc.lock has 12,000 characters and no bracket.
MOST_TEXT, MOST_OPEN, MOST_VALUES = 2**18, 1000, 2**18


class Section(BaseModel):
    """A section of params.yaml: strict types, no unknown keys, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def read_yaml(path: str | Path) -> Any:
    """Return the document in a YAML 1.2 file, read as DVC reads it, so that its record is true.

    In YAML 1.1, which most readers still follow, 010 is 8 and 1e-05 a string. A key that stands
    twice is refused, and so is what would take seconds to read or to report.

    Raises
    ------
    UserError
        The file cannot be read or is no YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if len(text) > MOST_TEXT:
            raise UserError(
                f"{path}: has {len(text):,} characters, at most {MOST_TEXT:,}; {CORRECT}"
            )
        if text.count("[") + text.count("{") > MOST_OPEN:
            raise UserError(f"{path}: has more than {MOST_OPEN:,} brackets; {CORRECT}")
        document = YAML(typ="safe").load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: {error}; {CORRECT}") from None
    # A ValueError of Python's comes through for a date such as 2026-13-45.
    except (YAMLError, ValueError, RecursionError) as error:
        what = getattr(error, "problem", None) or str(error)
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        problem = brief(" ".join(what.split()), 200).strip("'\"")
        raise UserError(f"{path}: is not valid YAML: {problem}{where}; {CORRECT}") from None
    if _values(document, {}) > MOST_VALUES:
        raise UserError(f"{path}: unfolds to more than {MOST_VALUES:,} values; {CORRECT}")
    return document


def _values(node: object, counts: dict[int, float]) -> float:
    """Return how many values a node unfolds to with YAML's aliases; infinite if it holds itself."""
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
        raise UserError(f"{path}: section '{name}' is missing or has no keys; {CORRECT}")
    for section in document:
        if section not in SECTIONS:
            raise UserError(f"{path}: unknown section {_near(section, SECTIONS)}; {CORRECT}")
    return document[name]


def load(path: str | Path, name: str, section_type: type[SectionT]) -> SectionT:
    """Return section `name` of the YAML file `path` as a `section_type`.

    Raises
    ------
    UserError
        As `read_section`; or a key is unknown, missing, of the wrong type or out of its range. The
        message names the key, the value, what is allowed and what to do.
    """
    return checked(path, name, read_section(path, name), section_type)


def checked(
    path: str | Path, name: str, section: dict[str, Any], section_type: type[SectionT]
) -> SectionT:
    """Return a section as a `section_type`; a UserError as `load` raises, that names `path`."""
    try:
        return section_type.model_validate(section)
    except ValidationError as error:
        first: dict[object, Any] = {}  # of each key: a wrong item can make the list too short
        for detail in error.errors():
            first.setdefault(detail["loc"][0], detail)
        problems = [_explain(name, section_type, detail) for detail in first.values()]
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path}: {'; '.join(problems[:5])}{more}; {CORRECT}") from None


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
    words = ", ".join(filter(None, (_kind(fields[key]), allowed(fields[key]))))
    if detail["type"] == "missing":
        return f"key '{name}.{key}' is missing; allowed: {words}"
    dotted = ".".join(str(part) for part in (name, key, *index))
    return f"{dotted} is {brief(detail['input'])}; allowed: {words}"


def allowed(field: FieldInfo) -> str:
    """Return which values `field` allows, as the comments in params.yaml have to end.

    Its description where it has one; else what follows from its type and its bounds: "1 to 1000",
    "above 0, at most 1", "0 to below 1", "exact or keras", "1 to 6 of 1 to 1024 each".
    """
    if field.description:
        return field.description
    kind, options = field.annotation, get_args(field.annotation)
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, options))
    bounds = {
        name: getattr(constraint, name)
        for constraint in field.metadata
        for name in ("gt", "ge", "lt", "le", "min_length", "max_length")
        if hasattr(constraint, name)
    }
    if get_origin(kind) is tuple:
        item = allowed(FieldInfo.from_annotation(options[0]))
        return f"{bounds.get('min_length', 0)} to {bounds['max_length']} of {item} each"
    upper = f"below {bounds['lt']:g}" if "lt" in bounds else f"{bounds['le']}"
    if "ge" in bounds:
        words = f"{bounds['ge']} to {upper}"
    else:
        words = f"above {bounds['gt']:g}, {upper if 'lt' in bounds else f'at most {upper}'}"
    return f"{words}, or empty" if NoneType in options else words


def _kind(field: FieldInfo) -> str:
    """Return of which type a value has to be, "" where `allowed` says all."""
    if field.description:
        return ""
    if get_origin(field.annotation) is tuple:
        return "a list of whole numbers"
    whole = int in (field.annotation, *get_args(field.annotation))
    return "a whole number" if whole else "a number" if field.annotation is float else ""
