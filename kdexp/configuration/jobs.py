"""The axes of a multirun: counted before anything is expanded, and every combination of their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep, ValueType

from kdexp.configuration.quoting import parse
from kdexp.errors import InvalidArguments, Problem, listed

MOST_JOBS = 10_000
"""Jobs of one command: all are checked before the first starts."""

Options = Callable[[str], Sequence[str]]
"""The options of a group; none if there is no such group."""


@dataclass(frozen=True)
class Axis:
    """One word of a multirun: its key, how many values it has, and the word of each value."""

    key: str
    count: int
    words: Callable[[], list[str]]


def expand(overrides: Sequence[str], options: Options = lambda _group: ()) -> list[list[str]]:
    """Every job of a multirun, in the order of Hydra's basic sweeper; raises `InvalidArguments`."""
    axes, found = [], list(swept_twice(overrides))
    for text in latest(overrides)[0]:
        try:
            axes.append(_axis(text, options))
        except InvalidArguments as error:
            found += error.problems
    total = math.prod(axis.count for axis in axes)
    if not found and total > MOST_JOBS:
        found.append(Problem("", _too_many(axes, total)))
    if not found:
        words = [axis.words() for axis in axes]
        found += [problem for axis, each in zip(axes, words, strict=True) for problem in _equal(axis.key, each)]
    if found:
        raise InvalidArguments(found)
    return [list(job) for job in product(*words)]


def key_of(text: str) -> str:
    """The key that a word sets, as problems name it."""
    return text.lstrip("+~").partition("=")[0]


def latest(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides without those that a later one of the same key replaces, and a line about each that is left out."""
    last = {text.partition("=")[0]: text for text in overrides}
    after = {text: last[text.partition("=")[0]] for text in overrides}
    kept = [text for text in dict.fromkeys(reversed(overrides)) if after[text] == text]
    return kept[::-1], [f"{text} is not used, {later} comes after it" for text, later in after.items() if text != later]


def swept_twice(overrides: Sequence[str]) -> Iterator[Problem]:
    """A problem for each key that several words set of which one has several values: that may mean several things."""
    words: dict[str, list[str]] = {}
    for text in dict.fromkeys(overrides):
        words.setdefault(key_of(text), []).append(text)
    for key, same in words.items():
        if len(same) > 1 and any(map(_sweeps, same)):
            yield Problem(key, f"given {len(same)} times ({', '.join(same)}); keep one")


def _sweeps(text: str) -> bool:
    try:
        return is_swept(parse(text))
    except Exception:  # composing explains it
        return False


def is_swept(override: Override) -> bool:
    """Whether a word stands for several values, each a job of its own."""
    return override.value_type not in (None, ValueType.ELEMENT)


def _axis(text: str, options: Options) -> Axis:
    """Raises `InvalidArguments` for a sweep that has no values, no end, or sets what can't differ between jobs."""
    key = key_of(text)
    try:
        override = parse(text)
    except Exception:  # composing a job explains it
        return Axis(key, 1, lambda: [text])
    if not is_swept(override):
        plain = text if override.is_delete() else f"{override.get_key_element()}={override.get_value_element_as_str()}"
        return Axis(key, 1, lambda: [plain])
    values = override.value()
    if problem := _unfit(override, values):
        raise InvalidArguments([Problem(key, f"={text.partition('=')[2]}: {problem}")])
    if isinstance(values, Glob):
        matching = values.filter(list(options(override.key_or_group)))
        if not matching:
            raise InvalidArguments([Problem(key, f"={text.partition('=')[2]}: {_no_match(override, options)}")])
        return Axis(key, len(matching), lambda: [f"{override.get_key_element()}={name}" for name in matching])
    count = int(_count(values)) if isinstance(values, RangeSweep) else len(values.list)  # type: ignore[union-attr]
    return Axis(key, count, lambda: [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()])


def _unfit(override: Override, values: Any) -> str:
    if override.is_delete():
        return "what is removed can't be swept; leave the value out"
    if override.key_or_group.partition(".")[0].partition("/")[0] == "hydra":
        return "Hydra's own settings can't differ between jobs; give one value"
    if isinstance(values, IntervalSweep):
        way_out = f"{override.key_or_group}={values.start:g},{values.end:g} or range(START,STOP,STEP)"
        return f"an interval can't be swept value by value; list some: {way_out}"
    if isinstance(values, RangeSweep):
        count = _count(values)
        return "has no end" if count == math.inf else "has no values" if not count else ""
    return ""


def _no_match(override: Override, options: Options) -> str:
    known = options(override.key_or_group)
    if not known:
        return "glob(...) chooses options of a group, and this is not a group; list values: KEY=A,B"
    return f"matches no option; known: {listed(known)}"


def _count(sweep: RangeSweep) -> float:
    """How many values a range has, without making them; infinite for one without end."""
    try:
        start, stop, step = (Decimal(number) for number in (sweep.start or 0, sweep.stop or 0, sweep.step))
        return max(0, math.ceil((stop - start) / step))
    except (InvalidOperation, ArithmeticError, ValueError):  # a step of 0, infinite or undefined limits
        return math.inf


def _too_many(axes: Sequence[Axis], total: int) -> str:
    counts = " × ".join(f"{axis.key} {_rounded(axis.count)}" for axis in axes if axis.count > 1)
    return (
        f"{_rounded(total)} jobs ({counts}) are more than {MOST_JOBS:,} in one command; "
        "split them into several commands, whose folders kdexp-report merges into one table"
    )


def _rounded(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "10^15 or more"


def _equal(key: str, words: Sequence[str]) -> Iterator[Problem]:
    """A problem for a value that an axis has twice: its jobs would be the same."""
    seen: dict[Any, str] = {}
    for word in words:
        value = _comparable(word) if len(words) > 1 else None
        written = word.partition("=")[2]
        if value in seen:
            same = f"{written} is given twice" if seen[value] == written else f"{seen[value]} and {written} are the same value"
            yield Problem(key, f"{same}; keep one")
        seen.setdefault(value, written)


def _comparable(word: str) -> Any:
    value = parse(word).value()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else (type(value), repr(value))
