"""Pictures for a paper: the same figures as PDF, one and two columns wide, with fonts of that size. Imports matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text

from kdexp.sweep.comparison import Comparison
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.drawing import draw_figures
from kdexp.sweep.pictures.style import LISTED, SETTINGS, wrapped


@dataclass(frozen=True)
class Format:
    """Width in inches, font size in points, and the most height of the axes as a multiple of the width."""

    name: str
    width: float
    font: float
    highest: float

    def characters(self, inches: float) -> int:
        """About how many characters fit."""
        return int(inches * 72 / (0.56 * self.font))


TWO_COLUMNS, ONE_COLUMN = Format("two_columns", 6.9, 8.0, 0.55), Format("one_column", 3.3, 7.0, 0.85)
PDF_SETTINGS = {**SETTINGS, "pdf.fonttype": 42, "pdf.compression": 6}
"""TrueType fonts are embedded, which journals accept; matplotlib's default, Type 3, is often refused."""
SMALLEST = 5.0
"""Font size in points below which nothing is printed."""
FLATTEST = 0.55
"""Height of axes as a multiple of the width, at least."""
LINE = 1.5
"""Height of a line of text, in font sizes."""
KEY = 7
"""Width in characters of the sign next to a legend's text."""


def draw_pdfs(comparison: Comparison, sources: Origins) -> Iterator[tuple[str, bytes]]:
    """Name and content of a PDF file per picture and format."""
    with rc_context(PDF_SETTINGS):
        for figures in draw_figures(comparison, sources):
            for figure, name, caption in figures:
                shape = figure.get_size_inches()
                _prepare(figure)
                for form in (TWO_COLUMNS, ONE_COLUMN):
                    _fit(figure, form, float(shape[1] / shape[0]))
                    yield f"{name}_{form.name}.pdf", _pdf(figure, caption)


def _prepare(figure: Figure) -> None:
    """Takes out titles, which a paper has in its caption."""
    for axes in figure.axes:
        axes.set_title("")
    figure.suptitle("").set_in_layout(False)


def _fit(figure: Figure, form: Format, ratio: float) -> None:
    """Sets size and fonts and puts legends below; in one column, axes that were side by side go below each other."""
    before = float(figure.get_size_inches()[0])
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    stacked = len(panels) if form is ONE_COLUMN else 1
    if stacked > 1:
        _stack(figure, panels)
    listed = [_wrap_names(axes, form) for axes in panels if axes.get_label() == LISTED]
    height = sum(listed) or min(max(ratio, FLATTEST), form.highest) * form.width
    lines = _move_legend(figure, panels, form)
    figure.set_size_inches(form.width, stacked * height + 1.45 * form.font / 72 * lines)
    for axes in figure.axes:
        room = form.characters(0.7 * height)
        axes.set_ylabel(textwrap.fill(" ".join(axes.get_ylabel().split()), max(room, 12)))
    for text in figure.findobj(Text):
        _resize(text, form, form.width / before)


def _wrap_names(axes: Axes, form: Format) -> float:
    """Wraps the names of the lines to a third of the width, in one column also their numbers; returns the height in inches."""
    names = [wrapped(tick.get_text(), form.characters(form.width / 3)) for tick in axes.get_yticklabels()]
    axes.set_yticks(axes.get_yticks(), names)
    for right in axes.child_axes:
        numbers = [" ".join(tick.get_text().split()) for tick in right.get_yticklabels()]
        right.set_yticks(axes.get_yticks(), [text.replace(" (", "\n(") if form is ONE_COLUMN else text for text in numbers])
    most = max(name.count("\n") + 1 for name in names)
    return (LINE * max(most, 2) * len(names) + 4) * form.font / 72


def _resize(text: Text, form: Format, scale: float) -> None:
    """Numbers in cells shrink with them; other text gets the format's size."""
    inside = text.axes is not None and text in text.axes.texts
    text.set_fontsize(max(SMALLEST, min(form.font, float(text.get_fontsize()) * scale)) if inside else form.font)


def _stack(figure: Figure, panels: list[Axes]) -> None:
    grid = GridSpec(len(panels), 1, figure=figure)
    for number, axes in enumerate(panels):
        axes.set_subplotspec(grid[number, 0])


def _move_legend(figure: Figure, panels: list[Axes], form: Format) -> int:
    """Moves the figure's legend below the axes, in as many columns as fit; returns its number of lines."""
    if not figure.legends:
        return 0
    for legend in list(figure.legends):
        legend.remove()
    found = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    names = [" ".join(name.split()) for _, name in found]
    room = form.characters(form.width)
    columns = max(1, min(len(names), 3, room // (max(map(len, names)) + KEY)))
    labels = [textwrap.fill(name, room // columns - KEY) for name in names]
    figure.legend([handle for handle, _ in found], labels, loc="outside lower center", ncols=columns, fontsize=form.font)
    per_column = -(-len(labels) // columns)
    return max(
        sum(label.count("\n") + 1 for label in labels[start : start + per_column])
        for start in range(0, len(labels), per_column)
    )


def _pdf(figure: Figure, caption: str) -> bytes:
    FigureCanvasPdf(figure)
    content = io.BytesIO()
    figure.savefig(content, format="pdf", metadata={"Title": caption, "CreationDate": None, "Creator": None, "Producer": None})
    return content.getvalue()
