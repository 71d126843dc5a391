"""Axes: where a value lies between the ends, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ROOM = 0.06
"""Space at each end, as a share of the range of the data."""


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`, which differ; both are positive if it is logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Iterable[float], *, logarithmic: bool = False, room: float = ROOM) -> Scale:
        """Holds all these values, with some room at both ends."""
        values = [value for value in values if math.isfinite(value)] or [1.0]
        if logarithmic:
            low, high = math.log(min(values)), math.log(max(values))
            aside = max(room * (high - low), 0.1)
            return cls(math.exp(low - aside), math.exp(high + aside), True)
        low, high = min(values), max(values)
        aside = room * (high - low) or max(0.5, 0.01 * abs(low))
        return cls(low - aside, high + aside)

    def at(self, value: float) -> float:
        """The place of a value: 0 at `low`, 1 at `high`."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def clipped(self, value: float) -> float:
        """The nearest value on the scale."""
        return min(max(value, self.low), self.high)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on the scale, ascending: at most that many, with 1, 2 or 5 as the first digit or the step."""
        powers = _powers(self, most) if self.logarithmic else []
        return powers if len(powers) > 1 else _steps(self, most)


def _steps(scale: Scale, most: int) -> list[float]:
    power = 10.0 ** math.floor(math.log10((scale.high - scale.low) / most))
    for step in (power * digit for digit in (1, 2, 5, 10, 20)):
        first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
        if last - first < most:
            return [round(number * step, 12) for number in range(first, last + 1)]
    return []


def _powers(scale: Scale, most: int) -> list[float]:
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    for digits in ((1, 2, 5), (1, 3), (1,)):
        values = (digit * 10.0**power for power in range(first, last + 1) for digit in digits)
        found = [value for value in values if scale.low <= value <= scale.high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def plain(value: float) -> str:
    """The number of a tick, with a minus sign."""
    return f"{value:,.6g}".replace("-", "−")
