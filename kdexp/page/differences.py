"""Differences to the baseline as dots with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdexp.page.html import Html, figure, tag
from kdexp.page.marks import Mark
from kdexp.page.scale import Scale, plain
from kdexp.page.symbols import key, symbol

HEIGHT = 34
BEYOND = 1.5
"""Intervals longer than the shortest extend the axis by at most so many times the range of the dots, and end in an arrow."""
AT_ONCE = 30
"""Of more differences the rest is collapsed."""

Ends = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A difference with the text of its numbers, in points."""

    name: str
    mark: Mark
    mean: float
    number: str
    range: str
    """The interval as text; empty if there is none."""
    tip: str
    points: Sequence[float] = field(default=())
    """The differences of single seeds."""
    interval: Ends | None = None
    inner: Ends | None = None
    """A shorter interval, drawn thicker."""


def draw_differences(estimates: Sequence[Estimate], caption: str) -> Html:
    """A line for each difference above one axis."""
    scale = axis(estimates)
    lines = [_line(estimate, scale) for estimate in estimates]
    bottom = tag("li", tag("span"), _axis(scale), class_="axis", aria_hidden="true")
    drawn = tag("ul", *lines[:AT_ONCE], bottom, class_="differences")
    if rest := lines[AT_ONCE:]:
        more = tag("ul", *rest, bottom, class_="differences")
        drawn = Html(drawn + tag("details", tag("summary", f"{len(rest)} more differences"), more))
    cut = any(end != scale.clipped(end) for estimate in estimates for end in estimate.interval or ())
    return figure(caption + (" An arrow: the interval is longer than the axis." if cut else ""), drawn)


def axis(estimates: Sequence[Estimate]) -> Scale:
    """Holds 0, all dots, the shortest interval, and as much of the others as leaves the dots apart."""
    dots = [0.0, *(value for estimate in estimates for value in (estimate.mean, *estimate.points))]
    intervals = [ends for estimate in estimates for ends in (estimate.interval, estimate.inner) if ends]
    shortest = min(intervals, key=lambda ends: ends[1] - ends[0], default=(0.0, 0.0))
    low, high, beyond = min(*dots, shortest[0]), max(*dots, shortest[1]), BEYOND * (max(dots) - min(dots))
    longest = [end for ends in intervals for end in ends]
    return Scale.around([*dots, *shortest, *(min(max(end, low - beyond), high + beyond) for end in longest)])


def _line(estimate: Estimate, scale: Scale) -> Html:
    middle = HEIGHT // 2
    parts = [_rules(scale)]
    for ends, kind in ((estimate.interval, "outer"), (estimate.inner, "inner")):
        if ends:
            parts += _bar(ends, scale, middle, f"{kind} {estimate.mark.name}")
    for point in estimate.points if len(estimate.points) > 1 else ():
        parts.append(tag("circle", cx=_percent(point, scale), cy=middle + 9, r=2, class_=f"seed {estimate.mark.name}"))
    parts.append(tag("svg", symbol(estimate.mark), x=_percent(estimate.mean, scale), y=middle))
    track = tag("svg", *parts, height=HEIGHT, class_="track", aria_hidden="true")
    number = tag("span", tag("b", estimate.number), " ", tag("span", estimate.range, class_="soft"), class_="number")
    name = tag("span", key(estimate.mark), " ", estimate.name, class_="name")
    return tag("li", name, track, number, data_tip=estimate.tip)


def _bar(ends: Ends, scale: Scale, middle: int, colour: str) -> list[Html]:
    """A bar between two ends, with arrows where the axis is too short."""
    low, high = map(scale.clipped, ends)
    found = [tag("line", x1=_percent(low, scale), x2=_percent(high, scale), y1=middle, y2=middle, class_=colour)]
    for end, shown, arrow in ((ends[0], low, "M0-5-7 0 0 5Z"), (ends[1], high, "M0-5 7 0 0 5Z")):
        if end != shown and "outer" in colour:
            found.append(tag("svg", tag("path", d=arrow, class_=f"arrow {colour}"), x=_percent(shown, scale), y=middle))
    return found


def _rules(scale: Scale) -> Html:
    places = [(_percent(tick, scale), "zero" if tick == 0 else None) for tick in scale.ticks()]
    return tag("g", *(tag("line", x1=x, x2=x, y1=0, y2=HEIGHT, class_=kind) for x, kind in places), class_="rules")


def _axis(scale: Scale) -> Html:
    texts = [tag("text", signed(tick), x=_percent(tick, scale), y=14) for tick in scale.ticks()]
    title = tag("text", "test accuracy − baseline, points", x="50%", y=34, class_="title")
    return tag("svg", *texts, title, height=40, class_="track ticks")


def signed(value: float) -> str:
    """The number of a tick with its sign."""
    return ("+" if value > 0 else "") + plain(value)


def _percent(value: float, scale: Scale) -> str:
    return f"{100 * scale.at(value):.2f}%"
