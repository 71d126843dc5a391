"""Tables that a reader can sort, and whose columns can be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdexp.page.html import Html, breakable, tag
from kdexp.text.numbers import MISSING

STAR = "★"
"""Heading of the column of marks, which has none in other tables."""


@dataclass(frozen=True)
class Heading:
    """A column: its name, whether its numbers stand at the right, and what it means.

    Screens that are too narrow leave columns out at first: those with the rank 1 before those with the rank 2, and those with
    the rank 0 never.
    """

    text: str
    right: bool
    rank: int = 0
    meaning: str = ""


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
    button = tag("button", heading.text or STAR, type="button")
    side, tip = "right" if heading.right else None, heading.meaning or None
    return tag("th", button, scope="col", class_=side, data_rank=heading.rank or None, data_tip=tip)


def meanings(headings: Sequence[Heading]) -> Html:
    """A collapsed list of what these columns mean, which is printed open."""
    parts = [part for each in headings if each.meaning for part in (tag("dt", each.text or STAR), tag("dd", each.meaning))]
    parts += [tag("dt", MISSING), tag("dd", "unknown, or does not apply")]
    return tag("details", tag("summary", "What the columns mean"), tag("dl", *parts), class_="meanings")


def _row(number: int, line: Line, headings: Sequence[Heading]) -> Html:
    label = f"copy the command of row {number}"
    given = {"type": "button", "class_": "copy", "aria_label": label, "title": label, "data_copy": line.command}
    copy = [tag("button", **given)] if line.command else []
    link = tag("a", number, href=f"#{line.target}") if line.target else str(number)
    cells = [_cell(text, heading, line.tips) for text, heading in zip(line.cells, headings, strict=True)]
    return tag("tr", tag("td", link, *copy, class_="first"), *cells, class_="chosen" if line.chosen else None)


def _cell(text: str, heading: Heading, tips: Mapping[str, str]) -> Html:
    side = "right" if heading.right else None
    return tag("td", text if heading.right else breakable(text), class_=side, data_tip=tips.get(heading.text))
