"""Every error that a user can meet, and the words that error messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdexp.text.characters import one_line
from kdexp.text.synonyms import same

if TYPE_CHECKING:
    pass
if TYPE_CHECKING:
    pass


class Problem(NamedTuple):
    """One argument that can't be used; `name` is empty where no single argument is to blame."""

    name: str
    sentence: str

    def under(self, node: str) -> Problem:
        """The same problem, its name written as a path from the root of the configuration."""
        return Problem(".".join(part for part in (node, self.name) if part), self.sentence)

    def __str__(self) -> str:
        return f"{self.name}{'' if self.sentence.startswith('=') else ': '}{self.sentence}" if self.name else self.sentence


class InvalidArguments(ValueError):
    """Arguments that can't be used, all of them at once."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("; ".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' did you mean X?' for the known word that is a synonym or the closest, whatever their case; or nothing."""
    lowered = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1)
    meant = same(word, lowered.values()) or (lowered[close[0]] if close else "")
    return f" did you mean {meant}?" if meant else ""


def first_line(error: BaseException) -> str:
    """An error's own words, as far as one line of a message goes.

    Our own errors are a sentence each: a line break in them is one of a name, and no end.
    """
    words = str(error).strip() or type(error).__name__
    return one_line(words) if type(error).__module__.startswith("kdexp.") else words.splitlines()[0]


def first_cause(error: BaseException) -> BaseException:
    """The error from which this one was raised in the end, or the nearest `InvalidArguments` on the way to it."""
    while error.__cause__ is not None and not isinstance(error, InvalidArguments):
        error = error.__cause__
    return error


def refusals(error: BaseException) -> list[Problem]:
    """The problems that an error stands for: those of the `InvalidArguments` behind it, else its own words."""
    cause = first_cause(error)
    return cause.problems if isinstance(cause, InvalidArguments) else [Problem("", first_line(cause))]


def listed(words: Iterable[str]) -> str:
    """The words as one line of an error message."""
    return ", ".join(words) or "none"


def a_few(words: Sequence[str], most: int = 5) -> str:
    """The first of the words, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


class BadFile(ValueError):
    """A file of plain values that is damaged, or is not what files of its kind are."""


class DataUnavailable(RuntimeError):
    """Images, or weights to start from, that can't be read or used; the message says why and what would help."""


class ImageLost(OSError):
    """An image that can't be read in the middle of a run."""


class Unwritable(RuntimeError):
    """A place that can't be written; the message names it, the reason, and another way."""


class BadCheckpoint(ValueError):
    """A checkpoint that can't be read, or that belongs to another architecture."""


class UnknownLayer(ValueError):
    """A layer name that the model does not have, or that its forward pass does not run."""


class CorruptEntry(BadFile):
    """A stored learner whose files are not what its result says they are."""


class LearnerLost(OSError):
    """A learner that somebody took out of the store while a run needed it; the same command trains it again."""


class BadResult(BadFile):
    """A result or an exported file whose network can't be built, or must not be."""


class UnknownRole(KeyError):
    """A role that a run has no finished learner for; `there` are those it has."""

    def __init__(self, folder: Path, role: str, there: list[str]):
        super().__init__(f"{folder} has no finished {role!r}; it has: {listed(there)}")
        self.there = there

    def __str__(self) -> str:
        return self.args[0]
