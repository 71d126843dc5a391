"""Shared by all pictures: colours that differ in grey and for the colour-blind, and writing figures to files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kdexp.sweep.axes import written_values
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.remarks import models_vary
from kdexp.sweep.row import SweepRow

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A", "#666666")
"""Okabe and Ito (2008), except yellow, which is faint on white, and black, which is the teacher's."""
MARKERS = ("o", "D", "^", "v", "P", "X", "<", ">")
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (8, 2)),
)
TEACHER, FAINT = "black", "#999999"

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read by tests
    "svg.hashsalt": "kdexp",
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
"""Settings of matplotlib for all pictures."""
DPI = 150


@dataclass(frozen=True)
class Picture:
    """A finished picture: the name of its files, its caption, and both files."""

    name: str
    caption: str
    svg: bytes
    png: bytes


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which makes room for its own labels."""
    return Figure(figsize=(width, height), layout="constrained")


def logarithmic(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def apart(places: Sequence[float], characters: int = 3) -> bool:
    """Whether labels of this many characters fit side by side at these ascending positions of an axis."""
    gaps = [b - a for a, b in pairwise(places)]
    return not gaps or min(gaps) > 0.02 * (characters + 0.5) * (places[-1] - places[0])


def finish(figure: Figure, name: str, caption: str) -> Picture:
    """The figure as both files; the same figure gives the same bytes."""
    if engine := figure.get_layout_engine():
        FigureCanvasSVG(figure)  # measures texts as the SVG file has them
        engine.execute(figure)
        figure.set_layout_engine(None)  # each `savefig` would lay it out again and draw it twice
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name, caption, svg.getvalue(), png.getvalue())


def label(row: SweepRow, table: DataTable) -> str:
    """The legend of a row, in lines of about 36 characters."""
    words = [row.mark, row.role if row.role != "distilled" else "", row.model if models_vary(table) else ""]
    words += [row.method, written_values(row.settings, table.columns)]
    return textwrap.fill(" ".join(word for word in words if word), 36)


def seeds(rows: Sequence[SweepRow]) -> str:
    """Number of seeds, as `n = 3` or, if rows differ, `n = 2 to 3`."""
    counts = sorted({row.n for row in rows})
    return f"n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")


def chosen(table: DataTable) -> list[SweepRow]:
    """Rows for pictures with few rows: the best on validation data of each method and student, or all if none is marked."""
    marked = {_kind(row) for row in table.rows if row.mark}
    return [row for row in table.rows if row.mark or _kind(row) not in marked]


def _kind(row: SweepRow) -> tuple[str, str, int, str]:
    return row.role, row.model, row.parameters, row.option
