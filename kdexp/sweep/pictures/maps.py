"""A map of the differences over two settings."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdexp.sweep.axes import headings, written_value
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.pictures.slices import Slice
from kdexp.sweep.pictures.style import FAINT, new_figure
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import seeds
from kdexp.sweep.table import title

CELL = 0.85, 0.6
"""Width and height of a cell in inches."""
WIDEST = 12
READABLE = 5.0
"""Smallest font size in points; smaller cells get no numbers."""


def draw_map(piece: Slice, table: DataTable, failed: set[tuple[float, ...]]) -> Figure:
    """Mean difference to the baseline in every cell, or mean accuracy if a row has no baseline."""
    rows = {piece.at(row): row for row in piece.rows}
    columns, lines = ([*sorted({at[axis] for at in [*rows, *failed]})] for axis in (0, 1))
    width, height = (max(2.3, min(WIDEST, size * len(places))) for size, places in zip(CELL, (columns, lines), strict=True))
    figure = new_figure(width + 1.9, height + 1.3)
    axes = figure.subplots()
    values = np.full((len(lines), len(columns)), np.nan)
    for (x, y), row in rows.items():
        values[lines.index(y), columns.index(x)] = piece.worth(row)[0]
    mesh = _colour(axes, values, piece.comparable)
    size = min(9.0, 72 * width / len(columns) / 4.2, 72 * height / len(lines) / 3.2)
    letters = size if size >= READABLE else 0.0
    for (line, y), (column, x) in product(enumerate(lines), enumerate(columns)):
        if (x, y) in rows:
            dark = _is_dark(mesh.to_rgba(values[line, column]))
            _fill(axes, (column, line), rows[x, y], piece.numbers(rows[x, y]), letters, dark=dark)
        else:
            _hatch(axes, (column, line), "failed" if (x, y) in failed else "", letters)
    _ticks(axes, piece, columns, lines)
    axes.set_title(f"{title(table)}\n{piece.name}, {seeds(piece.rows)}{_framed(piece)}", fontsize=9)
    return figure


def _colour(axes: Axes, values: np.ndarray, differences: bool) -> QuadMesh:
    """Draws cells and colour bar: differences from red to blue around 0, accuracies from dark to light."""
    limit = max(float(np.nanmax(np.abs(values))), 0.01)
    scale: dict[str, Any] = {"cmap": "RdBu", "vmin": -limit, "vmax": limit} if differences else {"cmap": "cividis"}
    mesh = axes.pcolormesh(values, edgecolors="white", linewidth=1, **scale)
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.set_label("test accuracy − baseline, points" if differences else "test accuracy, %")
    bar.outline.set_visible(False)
    return mesh


def _is_dark(colour: np.ndarray) -> bool:
    """Whether white text is more legible on this colour than black text (luma of ITU-R BT.601)."""
    return float(np.dot(colour[:3], (0.299, 0.587, 0.114))) < 0.5


def _fill(axes: Axes, at: tuple[int, int], row: SweepRow, written: tuple[str, str], letters: float, *, dark: bool) -> None:
    """Writes the number into its cell, unless the font size is 0, and frames the best on validation data."""
    x, y = at[0] + 0.5, at[1] + 0.5
    number, below = written
    style: dict[str, Any] = {"ha": "center", "color": "white" if dark else "black"}
    if letters:
        axes.text(x, y, number, va="bottom" if below else "center", size=letters, **style)
    if letters and below:
        axes.text(x, y - 0.05, below, va="top", size=0.72 * letters, **style)
    frame = (("white", 5), ("black", 2.5)) if row.mark else ()  # white, to be seen on dark cells
    for colour, width in frame:
        axes.add_patch(Rectangle((at[0] + 0.04, at[1] + 0.05), 0.92, 0.9, fill=False, edgecolor=colour, linewidth=width))


def _hatch(axes: Axes, at: tuple[int, int], word: str, letters: float) -> None:
    axes.add_patch(Rectangle(at, 1, 1, facecolor="white", edgecolor=FAINT, hatch="////", linewidth=0))
    if word and letters:
        behind = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        axes.text(at[0] + 0.5, at[1] + 0.5, word, ha="center", va="center", size=0.85 * letters, bbox=behind)


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
