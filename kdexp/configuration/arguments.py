"""Checks arguments against the types and ranges in a signature, wherever a value arrives."""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal

from kdexp.errors import InvalidArguments, Problem, did_you_mean, listed

MISSING = "???"
"""What OmegaConf calls `MISSING`; a report starts a tenth of a second sooner without importing it."""

SMALLEST, LARGEST = 2.0**-126, 2.0**128 * (1 - 2.0**-24)
"""The smallest and largest positive numbers that float32, the type networks compute in, holds at full precision."""

MOST = 2**31 - 1
"""The largest count: the product of two counts must still be a valid PyTorch index."""


@dataclass(frozen=True)
class Range:
    """The numbers that an argument accepts, written as `Annotated[float, Range(above=0)]`.

    `within` are technical limits; a message mentions them only when a value exceeds them.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    within: tuple[float, float] = (-math.inf, math.inf)

    def __contains__(self, value: float) -> bool:
        return not self.refusal(value)

    def refusal(self, value: float) -> str:
        """Why the value is refused, or an empty string."""
        if not (self.at_least <= value <= self.at_most and self.above < value < self.below):
            return f"must be {self}"
        least, most = self.within
        return "" if least <= value <= most else f"must be between {_written(least)} and {_written(most)}"

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {_written(bound)}" for word, bound in bounds.items() if math.isfinite(bound))


@dataclass(frozen=True)
class Written:
    """The texts that match a regular expression, with words for them: `Annotated[str, Written("a[0-9]", "a and a digit")]`."""

    pattern: str
    meaning: str

    def refusal(self, value: str) -> str:
        """Why the text is refused, or an empty string."""
        return "" if re.fullmatch(self.pattern, value) else f"must be {self.meaning}"


def _written(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
Count = Annotated[int, Range(at_least=1, within=(1, MOST))]
NonNegativeInt = Annotated[int, Range(at_least=0, within=(0, MOST))]

Weight = Annotated[float, Range(at_least=0, within=(0, 1e9))]
"""The weight of a loss; within the limit the squared gradient, which optimizers store, is finite."""
Temperature = Annotated[float, Range(above=0, within=(1e-6, 1e6))]
"""The number that logits are divided by; beyond the limits float32 probabilities are all equal, or T² overflows."""
Seed = Annotated[int, Range(at_least=0, within=(0, 2**32 - 1))]
"""A random seed; the limit is NumPy's, and lies below 2⁵³, from where the store's keys can't tell whole numbers apart."""
Width = Annotated[int, Range(at_least=1, within=(1, 2**20))]
"""Width of a layer; within the limit the size of a layer's weights fits into PyTorch's index type."""
Depth = Annotated[int, Range(at_least=1, within=(1, 1300))]
"""Number of layers of a network; within the limit it is built in seconds."""
Blocks = Annotated[int, Range(at_least=1, within=(1, 200))]
"""Number of blocks or layers of one stage of a network; within the limit it is built in seconds."""


def short_repr(value: Any, most: int = 200) -> str:
    """The value as Python writes it, cut off after `most` characters."""
    try:
        written = repr(value)
    except ValueError:  # by default Python does not write numbers of more than 4300 digits
        return "a number of thousands of digits"
    return written if len(written) <= most else f"{written[:most]}…"


@cache
def parameters(target: Callable) -> dict[str, Any]:
    """The keyword arguments of `target` as (annotation, default), including those that `**kwargs` passes on to base classes."""
    if not inspect.isclass(target):
        return _own_parameters(target)
    found: dict[str, Any] = {}
    for owner in target.__mro__:
        if "__init__" not in vars(owner):
            continue
        found = _own_parameters(vars(owner)["__init__"], owner if is_dataclass(owner) else None) | found
        kinds = [p.kind for p in inspect.signature(vars(owner)["__init__"]).parameters.values()]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _own_parameters(function: Callable, generated_for: type | None = None) -> dict[str, Any]:
    # A dataclass's generated constructor repeats its bases' annotations, which can be resolved only in their own modules.
    hints = typing.get_type_hints(generated_for or inspect.unwrap(function), include_extras=True)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(function).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default) for p in signature if p.kind in named and p.name != "self"}


def problems(target: Callable, arguments: Mapping[str, Any], *, given_later: Iterable[str] = ()) -> list[Problem]:
    """Every unknown, missing, mistyped or out-of-range argument of a call that has not been made yet.

    `given_later` names arguments that the program adds itself: they are not missing, and users can't set them.
    """
    known = {name: spec for name, spec in parameters(target).items() if name not in set(given_later)}
    found = []
    for name, value in arguments.items():
        if name not in known:
            found.append(Problem(name, f"unknown key;{did_you_mean(name, known)} known: {listed(known)}"))
        elif value == MISSING:
            found.append(Problem(name, "must be given, there is no default"))
        elif sentence := misfit(value, known[name][0]):
            found.append(Problem(name, f"={short_repr(value)}: {sentence}"))
    for name, (_, default) in known.items():
        if name not in arguments and default is inspect.Parameter.empty:
            found.append(Problem(name, "missing"))
    return found


def misfit(value: Any, annotation: Any) -> str:
    """Why `value` does not fit the annotation, or an empty string if it does."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        allowed = next((note for note in inner[1:] if isinstance(note, Range | Written)), Range())
        return misfit(value, inner[0]) or allowed.refusal(value)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        if not isinstance(value, list | tuple):  # an entry of a list may stand alone
            lists = [option for option in options if typing.get_origin(option) is list]
            options = [option for option in options if option not in lists or typing.get_args(option)[0] not in options]
        sentences = {option: misfit(value, option) for option in options}
        if (value is None and type(None) in inner) or "" in sentences.values():
            return ""
        alike = [option for option in options if typing.get_origin(option) is type(value)]  # a list is compared with lists
        told = dict.fromkeys(sentences[option].removeprefix("must be ") for option in alike or options)
        start = "must be " if sentences[(alike or options)[0]].startswith("must be ") else ""
        return f"{start}{' or '.join(told)}{' (or null)' if type(None) in inner else ''}"
    if origin is Literal:
        words = f"one of {listed(map(str, inner))}" if len(inner) > 1 else str(inner[0])
        return "" if value in inner and not isinstance(value, bool) else f"must be {words}"
    if origin is list:
        if not isinstance(value, list | tuple):
            return f"must be a list, written [{value if isinstance(value, str) and value else 'a,b'}]"
        return next((f"each entry {sentence}" for entry in value if (sentence := misfit(entry, inner[0]))), "")
    if origin is dict:
        return "" if isinstance(value, Mapping) else "must be a node with keys of its own"
    return _scalar_misfit(value, annotation)


def _scalar_misfit(value: Any, annotation: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is float:
        if not number or not abs(value) <= sys.float_info.max:
            return "must be a finite number"
        if value != 0 and not SMALLEST <= abs(value) <= LARGEST:
            return f"is outside of float32, {SMALLEST:.2g} to {LARGEST:.2g}"
        # PyTorch reads a Python int as a 64-bit number, even where it expects a float.
        return f"must be written {value:g}" if isinstance(value, int) and abs(value) >= 2**63 else ""
    if annotation is int:
        return "" if number and isinstance(value, int) else "must be a whole number"
    if annotation is bool:
        return "" if isinstance(value, bool) else "must be true or false"
    if annotation is str:
        return "" if isinstance(value, str) else "must be a text"
    return ""


class _CheckedType(type):
    def __call__(cls, **arguments):
        if found := problems(cls, arguments):
            raise InvalidArguments(found)
        return super().__call__(**arguments)


class Checked(metaclass=_CheckedType):
    """Base of classes whose keyword arguments are checked against their signature before the constructor runs.

    Raises `InvalidArguments`, which names every bad argument. A constructor only checks what a signature can't express.
    """
