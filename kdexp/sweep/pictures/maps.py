"""The pictures of one slice: a line where one setting varies, a map where two do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdexp.report.table import percent
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.configuration import Configuration
from kdexp.sweep.pictures.slices import Slice, is_number
from kdexp.sweep.pictures.style import COLOURS, FAINT, apart, logarithmic, new_figure
from kdexp.sweep.remarks import signed
from kdexp.sweep.settings import headings, written_value
from kdexp.sweep.table import title

CELL = 0.85, 0.6
"""Inches."""
WIDEST = 12
READABLE = 5.0
"""Points: cells too small for such letters are left without their numbers."""
LOGARITHMIC = 8
"""Values whose largest is so many times the smallest, or more, lie on a logarithmic axis."""


def seeds(rows: Sequence[Configuration]) -> str:
    """How many there are, as `n = 3` or, where rows differ, `n = 2 to 3`."""
    counts = sorted({row.n for row in rows})
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def draw_map(piece: Slice, table: DataTable, failed: set[tuple[float, ...]]) -> Figure:
    """Mean difference to the baseline in every cell, or mean accuracy where a row lacks a baseline."""
    places = {piece.at(row): row for row in piece.rows}
    columns, lines = ([*sorted({at[axis] for at in [*places, *failed]})] for axis in (0, 1))
    differences = all(row.difference for row in piece.rows)
    values = np.full((len(lines), len(columns)), np.nan)
    for (x, y), row in places.items():
        values[lines.index(y), columns.index(x)] = _value(row, differences)
    width, height = min(WIDEST, 1.9 + CELL[0] * len(columns)), min(WIDEST, 1.3 + CELL[1] * len(lines))
    figure = new_figure(max(4.2, width), height)
    axes = figure.subplots()
    axes.set_facecolor("white")
    limit = max(float(np.nanmax(np.abs(values))), 0.01)
    scale = {"cmap": "RdBu", "vmin": -limit, "vmax": limit} if differences else {"cmap": "cividis"}
    mesh = axes.pcolormesh(values, edgecolors="white", linewidth=1, **scale)
    bar = figure.colorbar(mesh, ax=axes)
    bar.set_label("test accuracy − baseline, points" if differences else "test accuracy, %")
    bar.outline.set_visible(False)  # type: ignore[operator]
    size = _letters(max(len(columns) / (max(4.2, width) - 1.9), 1e-9), len(lines) / (height - 1.3))
    for line, y in enumerate(lines):
        for column, x in enumerate(columns):
            if (x, y) in places:
                shade = mesh.to_rgba(values[line, column])
                _write(axes, column, line, places[x, y], piece, differences, shade, size)
            else:
                _hatch(axes, column, line, "failed" if (x, y) in failed else "", size)
    _ticks(axes, piece, columns, lines)
    axes.set_title(f"{title(table)}\n{piece.name}, {seeds(piece.rows)}{_framed(piece)}", fontsize=9)
    return figure


def _value(row: Configuration, differences: bool) -> float:
    return row.difference.mean if differences and row.difference else 100 * row.test_mean


def _letters(columns_per_inch: float, lines_per_inch: float) -> float:
    """The letters' size in points with which `+1.41` fits in a cell, and two lines do."""
    return min(9.0, 72 / columns_per_inch / 4.2, 72 / lines_per_inch / 3.2)


def _write(
    axes: Axes, column: int, line: int, row: Configuration, piece: Slice, differences: bool, shade: tuple, size: float
) -> None:
    std = (row.difference.std if row.difference else None) if differences else row.test_std
    spread = f"± {std if differences else 100 * std:.2f}" if std is not None else ""
    spread += f" (n={row.n})" if row.n < max(other.n for other in piece.rows) else ""
    dark = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] < 0.5
    style: dict[str, Any] = {"ha": "center", "color": "white" if dark else "black"}
    if size >= READABLE:
        number = signed(_value(row, True)) if differences else percent(row.test_mean)
        axes.text(
            column + 0.5, line + (0.52 if spread else 0.5), number, va="bottom" if spread else "center", size=size, **style
        )
        axes.text(column + 0.5, line + 0.46, spread, va="top", size=0.72 * size, **style)
    if row.mark:
        frame = Rectangle((column + 0.04, line + 0.05), 0.92, 0.9, fill=False, edgecolor="black", linewidth=2.5)
        axes.add_patch(frame)


def _hatch(axes: Axes, column: int, line: int, word: str, size: float) -> None:
    axes.add_patch(Rectangle((column, line), 1, 1, facecolor="white", edgecolor=FAINT, hatch="////", linewidth=0))
    if word and size >= READABLE:
        behind = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        axes.text(column + 0.5, line + 0.5, word, ha="center", va="center", size=0.85 * size, bbox=behind)


def _ticks(axes: Axes, piece: Slice, columns: list[float], lines: list[float]) -> None:
    names = headings(piece.axes)
    slanted = 45 if max(len(written_value(value)) for value in columns) * len(columns) > 60 else 0
    axes.set_xticks(np.arange(len(columns)) + 0.5, [written_value(value) for value in columns], rotation=slanted)
    axes.set_yticks(np.arange(len(lines)) + 0.5, [written_value(value) for value in lines])
    axes.set(xlabel=names[piece.axes[0]], ylabel=names[piece.axes[1]])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _framed(piece: Slice) -> str:
    return "; framed: chosen on validation images" if any(row.mark for row in piece.rows) else ""


def draw_line(piece: Slice, table: DataTable) -> Figure:
    """Mean accuracy ± standard deviation over the setting, the baseline as a band, or as a line where it varies too."""
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    (axis,) = piece.axes
    rows = sorted(piece.rows, key=piece.at)
    _draw_baselines(axes, axis, piece, table)
    _errors(axes, axis, rows, piece.name, COLOURS[0], "o-")
    for row in rows:
        if row.mark:
            style: dict[str, Any] = {"fillstyle": "none", "color": "black", "linestyle": "none"}
            axes.plot(row.settings[axis], 100 * row.test_mean, "s", ms=11, label="chosen on validation images", **style)
    _scale(axes, [row.settings[axis] for row in rows])
    axes.set(xlabel=headings([axis])[axis], ylabel="test accuracy, %, mean ± std over seeds")
    axes.set_title(f"{title(table)}, {seeds(rows)}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _draw_baselines(axes: Axes, axis: str, piece: Slice, table: DataTable) -> None:
    model = {row.parameters for row in piece.rows}
    rows = [row for row in table.rows if row.role == "baseline" and row.model == piece.model and row.parameters in model]
    if len(rows) == 1:
        mean, std = 100 * rows[0].test_mean, 100 * (rows[0].test_std or 0.0)
        axes.axhspan(mean - std, mean + std, color=FAINT, alpha=0.3, linewidth=0)
        axes.axhline(mean, color=FAINT, linestyle="--", label=f"baseline, n = {rows[0].n}")
    elif rows and all(is_number(row.settings.get(axis)) for row in rows):
        _errors(axes, axis, sorted(rows, key=lambda row: row.settings[axis]), "baseline", FAINT, "s--")


def _errors(axes: Axes, axis: str, rows: list[Configuration], name: str, colour: str, style: str) -> None:
    places, means = [row.settings[axis] for row in rows], [100 * row.test_mean for row in rows]
    spreads = [100 * (row.test_std or 0.0) for row in rows]
    axes.errorbar(places, means, spreads, fmt=style, color=colour, capsize=3, label=name)


def _scale(axes: Axes, values: list[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= LOGARITHMIC:
        axes.set_xscale("log")
        logarithmic(axes.xaxis)
    places = [math.log(value) for value in values] if axes.get_xscale() == "log" else values
    if apart(places):
        axes.set_xticks(values, [written_value(value) for value in values])
