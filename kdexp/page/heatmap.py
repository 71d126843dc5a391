"""A table whose cells are coloured by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdexp.page.html import Html, tag

STRONGEST = 78
"""Share of the colour in percent in the cell that is farthest from 0; more would hide its text."""
DENSE = 12
"""Cells of a table with more columns are smaller."""


@dataclass(frozen=True)
class Heat:
    """A cell: its value, the texts in it, and whether it is framed."""

    value: float
    text: str
    below: str = ""
    tip: str = ""
    framed: bool = False


def heatmap(
    columns: Sequence[str], lines: Sequence[tuple[str, Sequence[Heat | str]]], names: tuple[str, str], middle: float
) -> Html:
    """Cells under the names of columns and beside those of lines; `names` are those of the two settings.

    Values above `middle` have one hue and values below the other, the stronger the farther away. A text instead of a cell
    tells why there is none.
    """
    most = max((abs(cell.value - middle) for _, cells in lines for cell in cells if isinstance(cell, Heat)), default=0.0) or 1.0
    head = [
        tag("tr", tag("td"), tag("th", tag("span", names[0]), colspan=len(columns), scope="colgroup", class_="name")),
        tag("tr", tag("th", names[1], scope="col", class_="corner"), *(tag("th", column, scope="col") for column in columns)),
    ]
    body = [tag("tr", tag("th", name, scope="row"), *(_cell(cell, middle, most) for cell in cells)) for name, cells in lines]
    dense = " dense" if len(columns) > DENSE else ""
    table = tag("table", tag("thead", *head), tag("tbody", *body), class_=f"map{dense}")
    return tag("div", table, class_="wide")


def _cell(cell: Heat | str, middle: float, most: float) -> Html:
    if isinstance(cell, str):
        return tag("td", cell, class_="empty")
    away = (cell.value - middle) / most
    kind = ("more" if away >= 0 else "less") + (" framed" if cell.framed else "")
    below = [tag("small", cell.below)] if cell.below else []
    return tag("td", cell.text, *below, class_=kind, style=f"--share:{STRONGEST * abs(away):.0f}%", data_tip=cell.tip or None)
