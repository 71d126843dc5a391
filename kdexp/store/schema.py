"""Reads files of plain values that may be damaged or from strangers: bounded in size, and checked against a declaration.

A declaration is a `TypedDict` with the annotations of `kdexp.configuration.arguments` and `Text`. Undeclared keys, such as
those of a newer version, are kept; their values must be plain too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, is_typeddict

from kdexp.configuration.arguments import Range, misfit
from kdexp.errors import BadFile, Problem, first_line, listed
from kdexp.files import reason

LARGEST_FILE = 2**25
"""Bytes; the result of ten thousand epochs takes a tenth."""
FIRST_READ = 2**16
"""Bytes read at first: most files are smaller, and allocating room for the largest takes longer than reading them."""
DEEPEST, LONGEST, LARGEST_WHOLE = 24, 10**5, 2**63
"""Depth of nesting, characters of a text, and bound of whole numbers."""
SHOWN_PROBLEMS = 3

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 60


@dataclass(frozen=True)
class Text:
    """A regular expression for texts, as in `Annotated[str, Text("[0-9]+", "digits")]`."""

    pattern: str
    meaning: str

    def __contains__(self, value: str) -> bool:
        return self._fullmatch(value) is not None

    @cached_property
    def _fullmatch(self) -> Callable[[str], re.Match[str] | None]:
        return re.compile(self.pattern, re.DOTALL).fullmatch

    def __str__(self) -> str:
        return self.meaning


Check = Callable[[Any, int], list[Problem]]

Name = Annotated[str, Text(".{1,2000}", "a text of 1 to 2,000 characters")]
Key = Annotated[str, Text("[0-9a-f]{16}", "16 hexadecimal digits")]
Digest = Annotated[str, Text("[0-9a-f]{64}", "64 hexadecimal digits")]


def read_json(path: Path, kind: Any) -> dict[str, Any]:
    """The content of a JSON file of that declared kind; raises `BadFile` with the first few problems."""
    found = parse_json(read_text(path), path)
    require(found, kind, path)
    return found


def read_text(path: Path) -> str:
    """The text of a regular file; raises `BadFile`, also if it is larger than `LARGEST_FILE`."""
    try:
        if not path.is_file():  # opening a pipe would block, and a device has no end
            raise BadFile(
                f"{path} can't be read: {'it is not a regular file' if path.exists() else 'No such file or directory'}"
            )
        with path.open("rb") as file:
            content = file.read(FIRST_READ)
            if len(content) == FIRST_READ:
                content += file.read(LARGEST_FILE + 1 - FIRST_READ)
        if len(content) > LARGEST_FILE:
            raise BadFile(f"{path} can't be read: it is larger than {LARGEST_FILE >> 20} MB")
        return content.decode()
    except OSError as error:
        raise BadFile(f"{path} can't be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is damaged: it is not UTF-8 text") from error


def is_small(value: Any, most: int = 10**5) -> bool:
    """Whether a value has at most `most` values nested in it; False if it contains itself, as YAML allows."""
    waiting, count = [value], 0
    while waiting and count <= most:
        item = waiting.pop()
        count += 1
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return count <= most


def parse_json(text: str, source: Path) -> Any:
    """Parses strict JSON, without duplicate keys, NaN and Infinity; raises `BadFile`."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        why = "values are nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise BadFile(f"{source} is damaged: {why}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {_shown.repr(next(name for name in names if names.count(name) > 1))} occurs twice")
    return made


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def require(value: Any, kind: Any, source: Path) -> None:
    """Raises `BadFile` with the first few problems unless the value has that declared kind and matches its own digest."""
    if found := problems_of(value, kind):
        more = f" and {len(found) - SHOWN_PROBLEMS} more" if len(found) > SHOWN_PROBLEMS else ""
        raise BadFile(f"{source} is damaged: {'; '.join(map(str, found[:SHOWN_PROBLEMS]))}{more}")
    if "digest" in value and value["digest"] != self_digest(value):
        raise BadFile(f"{source} was changed after it was written")


def self_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of a file's content without its key `digest`, where it is stored."""
    rest = {name: inner for name, inner in value.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def problems_of(value: Any, kind: Any) -> list[Problem]:
    """Everything in a value that its annotation does not allow, with dotted paths."""
    return checker(kind)(value, 0)


@cache
def checker(kind: Any) -> Check:
    """A function that finds the problems of a value with that annotation, given the value and its depth of nesting."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Required, NotRequired):
        return checker(inner[0])
    if is_typeddict(kind):
        return _mapping(kind)
    if origin is Annotated:
        return _single(inner[0], tuple(note for note in inner[1:] if isinstance(note, Range | Text)))
    if origin in (typing.Union, types.UnionType):
        return _one_of([checker(option) for option in inner if option is not type(None)], type(None) in inner)
    if origin is dict:
        return _dictionary(checker(inner[0]), checker(inner[1]))
    if origin is list:
        return _list(checker(inner[0]))
    return _plain if kind is Any else _single(kind)


def _mapping(kind: Any) -> Check:
    declared = {name: checker(inner) for name, inner in typing.get_type_hints(kind, include_extras=True).items()}
    required: frozenset[str] = kind.__required_keys__

    def check(value: Any, depth: int) -> list[Problem]:
        if not isinstance(value, dict):
            return [Problem("", f"={_shown.repr(value)}: must hold {listed(sorted(required)[:3])} and so on")]
        missing = [] if value.keys() >= required else sorted(required - value.keys())
        found = [Problem(name, "missing") for name in missing]
        for name, inner in value.items():
            if name not in declared:
                found += _key_problems(name, _plain)
            if problems := declared.get(name, _plain)(inner, depth + 1):
                found += [problem.under(_path_part(name)) for problem in problems]
        return found

    return check


def _one_of(options: Sequence[Check], nullable: bool) -> Check:
    def check(value: Any, depth: int) -> list[Problem]:
        if value is None and nullable:
            return []
        found = [option(value, depth) for option in options]
        return found[0] if all(found) else []

    return check


def _dictionary(check_key: Check, check_value: Check) -> Check:
    def check(value: Any, depth: int) -> list[Problem]:
        if not isinstance(value, dict) or depth > DEEPEST:
            return _no_container(value, dict[str, Any])
        found = [problem for name in value for problem in _key_problems(name, check_key)]
        for name, inner in value.items():
            if problems := check_value(inner, depth + 1):
                found += [problem.under(_path_part(name)) for problem in problems]
        return found

    return check


def _list(check_value: Check) -> Check:
    def check(value: Any, depth: int) -> list[Problem]:
        if not isinstance(value, list) or depth > DEEPEST:
            return _no_container(value, list[Any])
        each = ((place, check_value(inner, depth + 1)) for place, inner in enumerate(value))
        return [problem.under(str(place)) for place, found in each for problem in found]

    return check


def _no_container(value: Any, kind: Any) -> list[Problem]:
    problem = misfit(value, kind)
    return [Problem("", f"={_shown.repr(value)}: {problem}" if problem else "values are nested too deeply")]


def _single(kind: Any, notes: Sequence[Range | Text] = ()) -> Check:
    def check(value: Any, _depth: int) -> list[Problem]:
        problem = ("" if type(value) is kind else misfit(value, kind)) or _scalar_problem(value)
        sentences = [problem] if problem else [f"must be {note}" for note in notes if value not in note]
        return [Problem("", f"={_shown.repr(value)}: {sentence}") for sentence in sentences] if sentences else []

    return check


def _plain(value: Any, depth: int) -> list[Problem]:
    """Checks a value without a declaration."""
    if isinstance(value, dict | list):
        return checker(dict[Any, Any] if isinstance(value, dict) else list[Any])(value, depth)
    problem = _scalar_problem(value)
    return [Problem("", f"={_shown.repr(value)}: {problem}")] if problem else []


def _key_problems(name: Any, check: Check) -> list[Problem]:
    found = check(name, 0)
    if not found:
        return []
    shown = _shown.repr(name)
    sentences = (problem.sentence.removeprefix(f"={shown}: ") for problem in found)
    return [Problem("", f"has the key {shown}, which {sentence}") for sentence in sentences]


def _scalar_problem(value: Any) -> str:
    """Why a scalar can't be in one of our files, or an empty string."""
    if isinstance(value, str):
        if len(value) > LONGEST:
            return f"must be at most {LONGEST:,} characters"
        return "" if value.isascii() or not re.search("[\ud800-\udfff]", value) else "must hold whole characters"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "must be a finite number"
    if isinstance(value, int):
        return "" if abs(value) < LARGEST_WHOLE else "must be a smaller number"
    return "" if value is None else "must be a number, a text, true, false or null"


def _path_part(name: Any) -> str:
    """A key as part of a dotted path."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) < 60 else _shown.repr(name)
