"""Accuracy over one setting, and the baseline's."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdexp.page.marks import BASELINE, Mark
from kdexp.sweep.axes import headings, written_value
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.pictures.slices import LOGARITHMIC, Slice, baselines_beside, is_number
from kdexp.sweep.pictures.style import apart, dashed, logarithmic, new_figure
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import marks_of, seeds
from kdexp.sweep.table import title


def draw_line(piece: Slice, table: DataTable) -> Figure:
    """Mean accuracy ± standard deviation over the setting, the baseline as a band, or as a line if it varies too."""
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    (axis,) = piece.axes
    rows = sorted(piece.rows, key=piece.at)
    _draw_baselines(axes, axis, piece, table)
    mark = marks_of(table)[piece.option]
    _errors(axes, axis, rows, piece.name, mark)
    if marked := [row for row in rows if row.mark]:
        places, means = [row.settings[axis] for row in marked], [100 * row.test_mean for row in marked]
        style: dict[str, Any] = {"fillstyle": "none", "color": "black", "linestyle": "none"}
        axes.plot(places, means, "s", ms=11, label="chosen on validation images", **style)
    _scale(axes, [row.settings[axis] for row in rows])
    axes.set(xlabel=headings([axis])[axis], ylabel="test accuracy, %, mean ± std over seeds")
    axes.set_title(
        f"{title(table)}: {piece.name}, {seeds(rows)}" if piece.student else f"{title(table)}, {seeds(rows)}", fontsize=9
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _draw_baselines(axes: Axes, axis: str, piece: Slice, table: DataTable) -> None:
    rows = baselines_beside(piece, table)
    if len(rows) == 1:
        mean, std = 100 * rows[0].test_mean, 100 * (rows[0].test_std or 0.0)
        axes.axhspan(mean - std, mean + std, color=BASELINE.colour, alpha=0.2, linewidth=0)
        axes.axhline(mean, color=BASELINE.colour, linestyle=dashed(BASELINE), label=f"baseline, n = {rows[0].n}")
    elif rows and all(is_number(row.settings.get(axis)) for row in rows):
        _errors(axes, axis, sorted(rows, key=lambda row: row.settings[axis]), "baseline", BASELINE)


def _errors(axes: Axes, axis: str, rows: list[SweepRow], name: str, mark: Mark) -> None:
    places, means = [row.settings[axis] for row in rows], [100 * row.test_mean for row in rows]
    spreads = [100 * (row.test_std or 0.0) for row in rows]
    style: dict[str, Any] = {"fmt": mark.shape, "linestyle": dashed(mark), "mfc": "white"}
    axes.errorbar(places, means, spreads, color=mark.colour, capsize=3, label=name, **style)


def _scale(axes: Axes, values: list[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= LOGARITHMIC:
        axes.set_xscale("log")
        logarithmic(axes.xaxis)
    places = [math.log(value) for value in values] if axes.get_xscale() == "log" else values
    if apart(places):
        axes.set_xticks(values, [written_value(value) for value in values])
