"""Numbers as people read them in tables and sentences; files for programs have plain ASCII numbers instead."""

from __future__ import annotations

import re

MINUS = "−"
"""The minus sign of everything that people read."""
MISSING = "–"
"""Stands for a value that is unknown or does not apply."""


def written(value: float | None, pattern: str) -> str:
    """The formatted value, or a dash for None. What rounds to zero has no minus sign."""
    if value is None:
        return MISSING
    without_negative_zero = re.sub(r"^([+ -]?)(.*[eEfFgG])$", r"\1z\2", pattern)
    return format(value, without_negative_zero).replace("-", MINUS)


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things, such as `1 epoch` or `1,280 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def signed(value: float | None) -> str:
    """The number with its sign and two digits."""
    return written(value, "+,.2f")


def percent(value: float | None) -> str:
    """A fraction of 1 in percent with two digits, without the percent sign."""
    return written(None if value is None else 100 * value, ".2f")


def plus_minus(mean: float | None, std: float | None) -> str:
    """Mean and, if known, standard deviation in percent; both are given as fractions of 1."""
    return percent(mean) + (f" ± {percent(std)}" if std is not None else "")


def duration(seconds: float | None) -> str:
    """Seconds as `8.3s`, `12m05s` or `1h04m`."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60:,}h{minutes % 60:02d}m"
