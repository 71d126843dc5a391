"""Accuracy against the cost of a network, with the Pareto front."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from kdexp.page.marks import Mark
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.pictures.style import FAINT, apart, logarithmic, new_figure, wrapped
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import chosen, front, marks_of, together
from kdexp.sweep.table import title

Cost = Callable[[SweepRow], float]

BESIDE, ABREAST = 5.0, 30.0
"""Offset in points between markers of equal cost, and the most from the first to the last."""


def draw_parameters(table: DataTable) -> Figure:
    """Mean test accuracy against parameters."""
    return _draw(table, lambda row: row.parameters, "parameters")


def draw_latency(table: DataTable, latencies: dict[tuple[str, int, bool], list[float]]) -> Figure:
    """Mean test accuracy against the median of all measured latencies of the same network."""
    return _draw(table, lambda row: median(latencies[row.network]), "latency, ms for one image (median)")


def _draw(table: DataTable, cost: Cost, name: str) -> Figure:
    figure = new_figure(6.8, 3.8)
    axes = figure.subplots()
    rows = chosen(table)
    others = [row for row in table.rows if row not in rows]
    _draw_front(axes, rows, cost)
    if others:
        told = f"{len(others)} not chosen"
        axes.plot([cost(row) for row in others], [100 * row.test_mean for row in others], ".", color=FAINT, ms=4, label=told)
    _draw_rows(axes, rows, table, cost)
    _scale(axes, sorted({cost(row) for row in table.rows}))
    axes.set_ylim(*_range(table))
    axes.set(xlabel=name, ylabel="test accuracy, %, mean ± std over seeds")
    axes.set_title(title(table), fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8, labelspacing=0.8)
    return figure


def _scale(axes: Axes, costs: list[float]) -> None:
    """Makes the axis logarithmic, with the costs as ticks if there is room."""
    axes.set_xscale("log")
    logarithmic(axes.xaxis)
    told = [f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in costs]
    if len(costs) <= 6 and apart([math.log(value) for value in costs], max(map(len, told))):
        axes.set_xticks(costs, told)
    room = (costs[-1] / costs[0]) ** 0.12 * 1.1
    axes.set_xlim(costs[0] / room, costs[-1] * room)


def _range(table: DataTable) -> tuple[float, float]:
    """Range of accuracies ± std in percent; matplotlib's own range ignores offset markers."""
    low = min(100 * (row.test_mean - (row.test_std or 0.0)) for row in table.rows)
    high = max(100 * (row.test_mean + (row.test_std or 0.0)) for row in table.rows)
    room = 0.06 * (high - low) + 0.05
    return low - room, high + room


def _draw_rows(axes: Axes, rows: Sequence[SweepRow], table: DataTable, cost: Cost) -> None:
    """Draws a colour and marker per method and per other role; rows of equal cost are side by side."""
    series = defaultdict[str, list[SweepRow]](list)
    for row in rows:
        series[row.drawn_as].append(row)
    students = [called for called in series if called != "teacher"]
    drawn = marks_of(table)
    step = min(BESIDE, ABREAST / max(1, len(students) - 1))
    for called, same in series.items():
        name = wrapped(together(same, table))
        if called == "teacher":
            _draw_series(axes, same, cost, name, drawn[called], 0.0)
        else:
            aside = step * (students.index(called) - (len(students) - 1) / 2)
            _draw_series(axes, same, cost, name, drawn[called], aside)


def _draw_series(axes: Axes, rows: Sequence[SweepRow], cost: Cost, name: str, mark: Mark, aside: float) -> None:
    places, means = [cost(row) for row in rows], [100 * row.test_mean for row in rows]
    spreads = [100 * (row.test_std or 0.0) for row in rows]
    figure = axes.get_figure(root=True)
    moved = offset_copy(axes.transData, fig=figure, x=aside, units="points")
    style: dict[str, Any] = {"fmt": mark.shape, "color": mark.colour, "mfc": "white", "mew": 1.5, "ms": 6, "capsize": 3}
    axes.errorbar(places, means, spreads, label=name, transform=moved, **style)


def _draw_front(axes: Axes, rows: Sequence[SweepRow], cost: Cost) -> None:
    points = [(cost(row), 100 * row.test_mean) for row in rows]
    best = [points[index] for index in front(points)]
    if len({place for place, _ in best}) > 1:
        style: dict[str, Any] = {"color": FAINT, "linewidth": 1, "linestyle": "--", "zorder": 0}
        axes.step(*zip(*best, strict=True), where="post", label="Pareto front", **style)
