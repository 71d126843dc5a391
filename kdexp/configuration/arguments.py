"""Types and ranges of arguments: declared once, in the signature, and checked wherever a value arrives."""

from __future__ import annotations

import inspect
import math
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
"""Of the numbers above 0 that float32, in which networks compute, has at full precision."""

MOST = 2**31 - 1
"""The largest count: the product of two of them is still an index of PyTorch."""


@dataclass(frozen=True)
class Range:
    """The numbers an argument accepts, as a note inside `Annotated[float, Range(above=0)]`.

    `within` are the numbers that can be computed with, mentioned only where a value lies outside of them.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    within: tuple[float, float] = (-math.inf, math.inf)

    def __contains__(self, value: float) -> bool:
        return not self.refusal(value)

    def refusal(self, value: float) -> str:
        """Why the value is not accepted, or an empty string."""
        if not (self.at_least <= value <= self.at_most and self.above < value < self.below):
            return f"must be {self}"
        least, most = self.within
        return "" if least <= value <= most else f"must be between {_written(least)} and {_written(most)}"

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {_written(bound)}" for word, bound in bounds.items() if math.isfinite(bound))


def _written(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
Count = Annotated[int, Range(at_least=1, within=(1, MOST))]
NonNegativeInt = Annotated[int, Range(at_least=0, within=(0, MOST))]

Weight = Annotated[float, Range(at_least=0, within=(0, 1e9))]
"""Of a loss: up to there the square of its gradient, which optimizers keep, is finite."""
Temperature = Annotated[float, Range(above=0, within=(1e-6, 1e6))]
"""What logits are divided by: beyond, float32 tells no probabilities apart, or T² overflows."""
Seed = Annotated[int, Range(at_least=0, within=(0, 2**32 - 1))]
"""Of a random stream: below 2⁵³, above which keys of the store can't tell whole numbers apart, and NumPy's largest."""
Width = Annotated[int, Range(at_least=1, within=(1, 2**20))]
"""Of a layer: up to there the size of a layer's weights is a number that PyTorch has."""
Depth = Annotated[int, Range(at_least=1, within=(1, 1300))]
"""Layers of a network: up to there it is built in seconds."""
Blocks = Annotated[int, Range(at_least=1, within=(1, 200))]
"""Blocks or layers of one of a network's stages, likewise."""


def shown(value: Any, most: int = 200) -> str:
    """The value as one would write it in Python; of a long one the beginning."""
    try:
        written = repr(value)
    except ValueError:  # Python writes no numbers of more than 4300 digits unless told to
        return "a number of thousands of digits"
    return written if len(written) <= most else f"{written[:most]}…"


@cache
def parameters(target: Callable) -> dict[str, Any]:
    """The keyword arguments that `target` takes, with their annotations, through every `**shared` up its class hierarchy."""
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
    # A dataclass's generated constructor repeats annotations of its bases, which only their own modules can resolve.
    hints = typing.get_type_hints(generated_for or inspect.unwrap(function), include_extras=True)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(function).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default) for p in signature if p.kind in named and p.name != "self"}


def problems(target: Callable, arguments: Mapping[str, Any], *, given_later: Iterable[str] = ()) -> list[Problem]:
    """Every unknown, missing, mistyped or out-of-range argument of a call that has not been made yet.

    `given_later` names arguments that the caller adds itself, so that they are neither missing nor open to the user.
    """
    known = {name: spec for name, spec in parameters(target).items() if name not in set(given_later)}
    found = []
    for name, value in arguments.items():
        if name not in known:
            found.append(Problem(name, f"unknown key;{did_you_mean(name, known)} known: {listed(known)}"))
        elif value == MISSING:
            found.append(Problem(name, "must be given, there is no default"))
        elif complaint := misfit(value, known[name][0]):
            found.append(Problem(name, f"={shown(value)}: {complaint}"))
    for name, (_, default) in known.items():
        if name not in arguments and default is inspect.Parameter.empty:
            found.append(Problem(name, "missing"))
    return found


def misfit(value: Any, annotation: Any) -> str:
    """Why `value` is not what the annotation asks for, or an empty string if it is."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        allowed = next((note for note in inner[1:] if isinstance(note, Range)), Range())
        return misfit(value, inner[0]) or allowed.refusal(value)
    if origin in (typing.Union, types.UnionType):
        complaints = [misfit(value, option) for option in inner if option is not type(None)]
        if (value is None and type(None) in inner) or "" in complaints:
            return ""
        return f"{complaints[0]}{' (or null)' if type(None) in inner else ''}"
    if origin is Literal:
        return "" if value in inner and not isinstance(value, bool) else f"must be one of {listed(map(str, inner))}"
    if origin is list:
        if not isinstance(value, list | tuple):
            return "must be a list, written [a,b]"
        return next((f"each entry {c}" for entry in value if (c := misfit(entry, inner[0]))), "")
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
        # PyTorch takes an int for a number of 64 bits, also where it wants a float.
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
    """A class whose keyword arguments are held against its own signature before its constructor runs.

    Raises `InvalidArguments`, which names every bad argument. A constructor adds only what a signature can't say.
    """
