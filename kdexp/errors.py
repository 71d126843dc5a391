"""Every error that a user can meet, and helpers that word error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kdexp.text.characters import one_line
from kdexp.text.synonyms import same


class Problem(NamedTuple):
    """What is wrong with one argument; `name` is empty where no single argument is to blame."""

    name: str
    sentence: str

    def under(self, node: str) -> Problem:
        """The same problem of an argument of the node at a path: its name becomes a path from the root of the configuration."""
        return Problem(".".join(part for part in (node, self.name) if part), self.sentence)

    def __str__(self) -> str:
        return f"{self.name}{'' if self.sentence.startswith('=') else ': '}{self.sentence}" if self.name else self.sentence


class InvalidArguments(ValueError):
    """Arguments that can't be used; `problems` holds all of them."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("; ".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' did you mean X?' for the known word that is a synonym of the word or closest to it, ignoring case; else empty."""
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1)
    meant = same(word, lowered.values()) or (lowered[close[0]] if close else "")
    return f" did you mean {meant}?" if meant else ""


def first_line(error: BaseException) -> str:
    """An error's message on one line: the whole message of our own errors, the first line of all others.

    Our own messages are one sentence; a line break in them can only be part of a name, and is escaped.
    """
    message = str(error).strip() or type(error).__name__
    return one_line(message) if type(error).__module__.startswith("kdexp.") else message.splitlines()[0]


def first_cause(error: BaseException) -> BaseException:
    """The error that this one was originally raised from, or the nearest `InvalidArguments` in the chain of causes."""
    while error.__cause__ is not None and not isinstance(error, InvalidArguments):
        error = error.__cause__
    return error


def refusals(error: BaseException) -> list[Problem]:
    """The problems of the `InvalidArguments` that caused an error; otherwise one problem with the error's message."""
    cause = first_cause(error)
    return cause.problems if isinstance(cause, InvalidArguments) else [Problem("", first_line(cause))]


def listed(words: Iterable[str]) -> str:
    """The words separated by commas, or `none`."""
    return ", ".join(words) or "none"


def a_few(words: Sequence[str], most: int = 5) -> str:
    """The first `most` words, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


class BadFile(ValueError):
    """A file of plain values that is damaged, or has not the contents that it should have."""


class DataUnavailable(RuntimeError):
    """Images or initial weights that can't be read or used; the message says why and what would help."""


class ImageLost(OSError):
    """An image that can no longer be read during a run."""


class UnfitImage(ValueError):
    """An image that a trained network can't take; the message says what it has, what is needed, and what makes it fit."""


class Unwritable(RuntimeError):
    """A file or folder that can't be written; the message names it, the reason, and an alternative."""


class BadCheckpoint(ValueError):
    """A checkpoint that can't be read, or that belongs to another architecture."""

    key = "checkpoint"
    """The key of the network's node that is to blame."""


class UnknownPrefix(BadCheckpoint):
    """A prefix with which no tensor of a checkpoint begins."""

    key = "checkpoint_prefix"


class BadFreshLayer(BadCheckpoint):
    """A layer that is to keep its initial weights, and that the network does not have or can't go without."""

    key = "checkpoint_fresh"


class UnknownLayer(ValueError):
    """A layer that the model does not have, or that its forward pass does not run."""


class CorruptEntry(BadFile):
    """A stored learner whose files do not match its result."""


class SweepLost(OSError):
    """A sweep's folder that disappeared while its jobs ran."""


class NotHere(Exception):
    """A machine can't run a job that the one which started the sweep could."""


class LearnerLost(OSError):
    """A learner that was removed from the store while a run needed it; the same command trains it again."""


class BadResult(BadFile):
    """A result or an exported file whose network can't or must not be built."""


class UnknownRole(KeyError):
    """A role without a finished learner in a run; `finished` lists the roles that have one."""

    def __init__(self, folder: Path, role: str, finished: list[str]):
        super().__init__(f"{folder} has no finished {role!r}; it has: {listed(finished)}")
        self.finished = finished

    def __str__(self) -> str:
        return self.args[0]
