"""Expands a multirun into jobs, one for every combination of its axes' values; jobs are counted before they are made."""

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
"""Jobs of one command at most, since all of them are checked before the first starts."""

SEARCHES = "search=tpe (or search=random) searches"
"""The command that an interval needs."""

Options = Callable[[str], Sequence[str]]
"""Returns the options of a group; none if there is no such group."""


@dataclass(frozen=True)
class Axis:
    """One word of a multirun: its key, the number of its values, and a function that makes the override for each value."""

    key: str
    count: int
    words: Callable[[], list[str]]
    swept: bool = True
    """Whether the word stands for a list of values, even one of a single value."""


def expand(overrides: Sequence[str], options: Options = lambda _group: ()) -> list[list[str]]:
    """The overrides of every job of a multirun, in the order of Hydra's basic sweeper; raises `InvalidArguments`."""
    axes, found = [], list(swept_twice(overrides))
    for text in latest(overrides)[0]:
        try:
            axes.append(axis_of(text, options))
        except InvalidArguments as error:
            found += error.problems
    total = math.prod(axis.count for axis in axes)
    if not found and total > MOST_JOBS:
        found.append(Problem("", _too_many(axes, total)))
    if not found:
        words = [axis.words() for axis in axes]
        found += [problem for axis, values in zip(axes, words, strict=True) for problem in equal_values(axis.key, values)]
    if found:
        raise InvalidArguments(found)
    return [list(job) for job in product(*words)]


def key_of(text: str) -> str:
    """The key that a word sets, as problems are named by it."""
    return text.lstrip("+~").partition("=")[0]


def _target(text: str) -> str:
    """What a word sets or removes; a word with `+` adds a key, which a later one without may change."""
    return text.lstrip("~").partition("=")[0]


def latest(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides without those that a later one of the same key replaces, and a line about each of the replaced ones."""
    last = {_target(text): text for text in overrides}
    after = {text: last[_target(text)] for text in overrides}
    effective = [text for text in dict.fromkeys(reversed(overrides)) if after[text] == text]
    return effective[::-1], [f"{text} is not used, {later} comes after it" for text, later in after.items() if text != later]


def swept_twice(overrides: Sequence[str]) -> Iterator[Problem]:
    """Problems of keys that are set several times and swept at least once, which is ambiguous."""
    words: dict[str, list[str]] = {}
    for text in dict.fromkeys(overrides):
        words.setdefault(key_of(text), []).append(text)
    for key, same in words.items():
        if len(same) > 1 and any(map(sweeps, same)):
            yield Problem(key, f"given {len(same)} times ({', '.join(same)}); keep one")


def sweeps(text: str) -> bool:
    """Whether a word stands for several values; False for one that can't be read."""
    try:
        return is_swept(parse(text))
    except Exception:  # composing the job explains the error
        return False


def is_swept(override: Override) -> bool:
    """Whether a word stands for several values, one per job."""
    return override.value_type not in (None, ValueType.ELEMENT)


def axis_of(text: str, options: Options) -> Axis:
    """The axis of a word; raises `InvalidArguments` for a sweep without values or end, or of a key that can't be swept."""
    key = key_of(text)
    try:
        override = parse(text)
    except Exception:  # composing the job explains the error
        return Axis(key, 1, lambda: [text], swept=False)
    if not is_swept(override):
        plain = text if override.is_delete() else f"{override.get_key_element()}={override.get_value_element_as_str()}"
        return Axis(key, 1, lambda: [plain], swept=False)
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
    """Why a word can't be swept, or an empty string."""
    if override.is_delete():
        return "a key that is removed can't be swept; leave the value out"
    if override.key_or_group.partition(".")[0].partition("/")[0] == "hydra":
        return "Hydra's own settings can't differ between jobs; give one value"
    if override.key_or_group == "search":
        return "a command is one search; choose one"
    if override.key_or_group == "logger":
        return "all jobs have the same trackers; a list is written 'logger=[A,B]'"
    if isinstance(values, IntervalSweep):
        listing = f"{override.key_or_group}={values.start:g},{values.end:g} or range(START,STOP,STEP)"
        return f"interval(...) has no list of values to sweep; {SEARCHES} an interval, and -m sweeps a list: {listing}"
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
    """Number of values of a range, without making them; infinite for a range without end."""
    try:
        start, stop, step = (Decimal(number) for number in (sweep.start or 0, sweep.stop or 0, sweep.step))
        return max(0, math.ceil((stop - start) / step))
    except (InvalidOperation, ArithmeticError, ValueError):  # a step of 0, limits that are infinite or no numbers
        return math.inf


def _too_many(axes: Sequence[Axis], total: int) -> str:
    counts = " × ".join(f"{axis.key} {_rounded(axis.count)}" for axis in axes if axis.count > 1)
    return (
        f"{_rounded(total)} jobs ({counts}) are more than {MOST_JOBS:,} in one command; "
        "split them into several commands, whose folders kdexp-report merges into one table"
    )


def _rounded(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "10^15 or more"


def equal_values(key: str, words: Sequence[str]) -> Iterator[Problem]:
    """Problems of values that an axis has twice, whose jobs would be the same."""
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
