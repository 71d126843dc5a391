"""Differences to the baseline as marks with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdexp.page.differences import AT_ONCE, Estimate, axis, signed
from kdexp.page.scale import Scale
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.estimates import estimates, explained
from kdexp.sweep.pictures.style import LISTED, new_figure, wrapped
from kdexp.sweep.table import title

ROW = 0.34
"""Height of a line in inches."""
BELOW = 0.24
"""How far the dots of single seeds lie below their mean, in lines."""
ASIDE = 7
"""Points between texts and the ends of the axis, where arrows may be."""
GREY = "#444444"


def draw_differences(table: DataTable) -> Figure:
    """The first `AT_ONCE` differences, from top to bottom in the order of the table, with their numbers at the right."""
    drawn = estimates(table)[:AT_ONCE]
    figure = new_figure(6.8, 1.2 + ROW * len(drawn))
    axes = figure.add_subplot(label=LISTED)
    scale = axis(drawn)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    for place, estimate in enumerate(drawn):
        _draw(axes, place, estimate, scale)
    axes.set(xlim=(scale.low, scale.high), ylim=(len(drawn) - 0.5, -0.5), xlabel="test accuracy − baseline, points")
    axes.set_yticks(range(len(drawn)), [wrapped(estimate.name) for estimate in drawn])
    axes.xaxis.set_major_formatter(lambda value, _: signed(value))
    axes.tick_params(axis="y", length=0, pad=ASIDE)
    axes.spines["left"].set_visible(False)
    numbers = axes.secondary_yaxis("right")
    numbers.set_yticks(range(len(drawn)), [_number(estimate) for estimate in drawn])
    numbers.tick_params(axis="y", length=0, pad=ASIDE)
    numbers.spines["right"].set_visible(False)
    axes.set_title(title(table), fontsize=9)
    _legend(figure, axes, drawn)
    return figure


def caption(table: DataTable) -> str:
    """What the picture shows; says so if it has not all differences."""
    number = len(table.compared)
    return explained(table) + (f" The first {AT_ONCE} of {number} differences." if number > AT_ONCE else "")


def _draw(axes: Axes, place: int, estimate: Estimate, scale: Scale) -> None:
    colour = estimate.mark.colour
    for ends, width in ((estimate.interval, 1.2), (estimate.inner, 3.5)):
        if ends:
            low, high = map(scale.clipped, ends)
            axes.hlines(place, low, high, color=colour, linewidth=width)
            if width < 2:
                _arrows(axes, place, ends, scale, colour)
    if len(estimate.points) > 1:
        axes.plot(estimate.points, [place + BELOW] * len(estimate.points), ".", color=colour, ms=3.5, alpha=0.7)
    axes.plot([estimate.mean], [place], estimate.mark.shape, color=colour, mfc="white", mew=1.5, ms=6)


def _number(estimate: Estimate) -> str:
    return f"{estimate.number} ({estimate.range})" if estimate.range else estimate.number


def _arrows(axes: Axes, place: int, ends: tuple[float, float], scale: Scale, colour: str) -> None:
    """Marks the ends at which an interval is longer than the axis."""
    for end, shape in zip(ends, "<>", strict=True):
        if end != scale.clipped(end):
            axes.plot([scale.clipped(end)], [place], shape, color=colour, ms=5, clip_on=False)


def _legend(figure: Figure, axes: Axes, drawn: Sequence[Estimate]) -> None:
    """What bars and dots are, in grey."""
    keys: list[tuple[str, dict[str, Any]]] = []
    if any(estimate.inner and estimate.inner != estimate.interval for estimate in drawn):
        keys.append(("over seeds alone", {"linewidth": 3.5}))
        keys.append(("over seeds and test images", {"linewidth": 1.2}))
    if any(len(estimate.points) > 1 for estimate in drawn):
        keys.append(("single seeds", {"marker": ".", "linestyle": "none", "ms": 3.5}))
    for name, style in keys:
        axes.plot([], [], color=GREY, label=name, **style)
    if keys:
        figure.legend(loc="outside lower center", ncols=len(keys), fontsize=8)
