"""Tables that a reader can sort, and whose columns can be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdexp.page.html import Html, tag


@dataclass(frozen=True)
class Heading:
    """A column: its name, and whether its numbers stand at the right.

    Screens that are too narrow leave columns out at first: those with the rank 1 before those with the rank 2, and those with
    the rank 0 never.
    """

    text: str
    right: bool
    rank: int = 0


@dataclass(frozen=True)
class Line:
    """A row: the texts of its cells, what hovering over them shows (by heading), its command, and where a link in it leads."""

    cells: Sequence[str]
    tips: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    target: str = ""
    chosen: bool = False


def data_table(headings: Sequence[Heading], lines: Sequence[Line], identity: str) -> Html:
    """The table, with a first column of row numbers and buttons that copy the rows' commands."""
    names = [tag("th", "row", scope="col", class_="first"), *map(_heading, headings)]
    rows = [_row(number, line, headings) for number, line in enumerate(lines, 1)]
    table = tag("table", tag("thead", tag("tr", *names)), tag("tbody", *rows), class_="data", id=identity)
    return tag("div", table, class_="wide")


def _heading(heading: Heading) -> Html:
    button = tag("button", heading.text or "★", type="button")
    return tag("th", button, scope="col", class_="right" if heading.right else None, data_rank=heading.rank or None)


def _row(number: int, line: Line, headings: Sequence[Heading]) -> Html:
    label = f"copy the command of row {number}"
    copy = [tag("button", type="button", class_="copy", aria_label=label, data_copy=line.command)] if line.command else []
    link = tag("a", number, href=f"#{line.target}") if line.target else str(number)
    cells = [_cell(text, heading, line.tips) for text, heading in zip(line.cells, headings, strict=True)]
    return tag("tr", tag("td", link, *copy, class_="first"), *cells, class_="chosen" if line.chosen else None)


def _cell(text: str, heading: Heading, tips: Mapping[str, str]) -> Html:
    return tag("td", text, class_="right" if heading.right else None, data_tip=tips.get(heading.text))
