"""The values that a search chooses from: one dimension for every swept word of the command line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

from hydra.core.override_parser.types import IntervalSweep, Override

from kdexp.configuration.jobs import MOST_JOBS, Options, axis_of, equal_values, key_of
from kdexp.configuration.quoting import parse
from kdexp.errors import InvalidArguments, Problem

DIGITS = 4
"""Significant digits of a value from an interval, so that commands stay readable."""


@dataclass(frozen=True)
class Choice:
    """A list of values; `words` are the overrides that choose them."""

    key: str
    words: tuple[str, ...]

    @property
    def probes(self) -> tuple[str, ...]:
        """The words that are checked before the search starts."""
        return self.words

    @property
    def by_value(self) -> dict[str, str]:
        """The words by their values."""
        return {value_in(word): word for word in self.words}

    @property
    def size(self) -> float:
        """The number of values."""
        return len(self.words)

    def draw(self, random: Random) -> str:
        """A word with a random value."""
        return random.choice(self.words)


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included; `typed` is the key as it stands on the command line."""

    key: str
    typed: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def probes(self) -> tuple[str, ...]:
        """The words that are checked before the search starts: the ends, and one between them, which is not whole."""
        return self.word(self.low), self.word(self.high), self.word(self.low + 0.377 * (self.high - self.low))

    @property
    def size(self) -> float:
        """The number of values; infinite unless they are whole numbers."""
        return self.high - self.low + 1 if self.whole else math.inf

    def draw(self, random: Random) -> str:
        """A word with a random value."""
        if self.whole and not self.log:
            return self.word(random.randint(int(self.low), int(self.high)))
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        drawn = random.uniform(low, high)
        return self.word(math.exp(drawn) if self.log else drawn)

    def word(self, value: float) -> str:
        """The override for a value, rounded and kept inside."""
        rounded = round(value) if self.whole else float(f"{value:.{DIGITS}g}")
        inside = min(max(rounded, self.low), self.high)
        return f"{self.typed}={int(inside) if self.whole else repr(inside).removesuffix('.0')}"

    def number(self, text: str) -> float:
        """The number that a word of `word` has behind its `=`."""
        return int(text) if self.whole else float(text)


Dimension = Choice | Interval


def value_in(word: str) -> str:
    """The value that a word of a trial has."""
    return word.partition("=")[2]


@dataclass(frozen=True)
class Space:
    """What is searched for one method: the words that all its trials have, and a dimension for each of the others."""

    method: str
    fixed: tuple[str, ...]
    dimensions: tuple[Dimension, ...]

    @property
    def size(self) -> float:
        """The number of combinations, infinite with an interval."""
        return math.prod(dimension.size for dimension in self.dimensions)

    def combinations(self) -> Iterator[tuple[str, ...]]:
        """All combinations; only for a space without intervals of broken numbers."""
        return product(*map(_words, self.dimensions))

    def probes(self) -> list[tuple[str, ...]]:
        """Combinations that have each end of each interval and each listed value at least once."""
        first = tuple(dimension.probes[0] for dimension in self.dimensions)
        found = [first]
        for position, dimension in enumerate(self.dimensions):
            found += [(*first[:position], word, *first[position + 1 :]) for word in dimension.probes[1:]]
        return found


def _words(dimension: Dimension) -> Iterator[str]:
    if isinstance(dimension, Choice):
        return iter(dimension.words)
    return (dimension.word(value) for value in range(int(dimension.low), int(dimension.high) + 1))


def dimension_of(text: str, options: Options) -> Dimension | None:
    """The dimension of a word; None if it has one value. Raises `InvalidArguments`."""
    try:
        override = parse(text)
    except Exception:  # composing a job explains the error
        return None
    if isinstance(override.value(), IntervalSweep):
        return _interval(override, text)
    axis = axis_of(text, options)
    if not axis.swept:
        return None
    if axis.count > MOST_JOBS:
        sentence = f"={value_in(text)}: has more than {MOST_JOBS:,} values; an interval has any number: interval(LOW,HIGH)"
        raise InvalidArguments([Problem(axis.key, sentence)])
    words = axis.words()
    if found := [*_tagged(override, text), *equal_values(axis.key, words)]:
        raise InvalidArguments(found)
    return Choice(key_of(text), tuple(words))


def _interval(override: Override, text: str) -> Interval:
    """The dimension of an interval; raises `InvalidArguments` for one that is empty, or has a tag without meaning."""
    key, sweep = key_of(text), override.value()
    assert isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None
    low, high = sweep.start, sweep.end
    log, whole = "log" in sweep.tags, isinstance(low, int) and isinstance(high, int)
    if found := list(_unfit(sweep, low, high)):
        raise InvalidArguments([Problem(key, f"={value_in(text)}: {sentence}") for sentence in found])
    return Interval(key, override.get_key_element(), low, high, log, whole)


def _unfit(sweep: IntervalSweep, low: float, high: float) -> Iterator[str]:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        yield "an interval needs two numbers, the smaller one first"
    elif "log" in sweep.tags and low <= 0:
        yield "a logarithmic interval must begin above 0"
    if others := sorted(sweep.tags - {"log"}):
        yield f"unknown tag {others[0]!r}; the only tag is log, written tag(log,interval(LOW,HIGH))"


def _tagged(override: Override, text: str) -> Iterator[Problem]:
    if tags := sorted(getattr(override.value(), "tags", ())):
        yield Problem(key_of(text), f"={value_in(text)}: tag {tags[0]!r} has no meaning for a list; leave it out")


def split_words(words: Sequence[str], options: Options) -> tuple[list[str], list[Dimension], list[Problem]]:
    """The words with one value, the dimensions of the others, and the problems of those that are neither."""
    fixed: list[str] = []
    dimensions: list[Dimension] = []
    found: list[Problem] = []
    for text in words:
        try:
            dimension = dimension_of(text, options)
        except InvalidArguments as error:
            found += error.problems
            continue
        if dimension is None:
            fixed.append(text)
        else:
            dimensions.append(dimension)
    return fixed, dimensions, found
