"""Shared by all pictures: settings, axes, names, and writing figures to files."""

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

from kdexp.page.marks import Mark
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import name_of

FAINT = "#999999"

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
LISTED = "<listed>"
"""Label of axes with a name and a number on each line."""


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
    return wrapped(name_of(row, table))


def wrapped(name: str, characters: int = 36) -> str:
    """A name in lines of about that many characters."""
    return textwrap.fill(" ".join(name.split()), characters)


def dashed(mark: Mark) -> str | tuple[int, tuple[int, ...]]:
    """The line style of a method."""
    return (0, mark.dashes) if mark.dashes else "-"
