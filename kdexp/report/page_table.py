"""A table of the report as part of a page."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from kdexp.page.html import Html
from kdexp.page.table import Heading, Line, data_table, meanings
from kdexp.report.table import YIELDING, AnyRow, Column
from kdexp.text.glossary import Entry, meaning

SPARE = ("", "n", "val %", "params", *YIELDING)
"""Columns that tell no row from the others."""


def page_table(
    rows: Sequence[AnyRow],
    columns: Sequence[Column[AnyRow]],
    identity: str,
    glossary: Sequence[Entry],
    line: Callable[[int, AnyRow], Mapping[str, object]] = lambda *_: {},
) -> tuple[Html, Html]:
    """The columns that have values, and their list in words; `line` gives further arguments of `Line` for a row."""
    shown = [column for column in columns if column.has_values(rows)]
    spare = {*SPARE, *(["model"] if _follows_role(rows, columns) else [])}
    headings = [Heading(each.heading, each.right, _rank(each, spare), meaning(each.heading, glossary)) for each in shown]
    lines = [
        Line([column.cell(row) for column in shown], **line(number, row))  # type: ignore[arg-type]
        for number, row in enumerate(rows, 1)
    ]
    return data_table(headings, lines, identity), meanings(headings)


def _follows_role(rows: Sequence[AnyRow], columns: Sequence[Column[AnyRow]]) -> bool:
    """Whether rows with the same role have the same model."""
    pairs = {tuple(column.cell(row) for column in columns if column.heading in ("role", "model")) for row in rows}
    return len(pairs) == len({role for role, *_ in pairs})


def _rank(column: Column[AnyRow], spare: Container[str]) -> int:
    if not column.always:
        return 1
    return 2 if column.heading in spare else 0
