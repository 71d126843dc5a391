"""Which rows a picture shows, and what they are called in it."""

from __future__ import annotations

from collections.abc import Sequence

from kdexp.configuration.roles import PARTS
from kdexp.page.marks import Mark, marks
from kdexp.sweep.axes import written_values
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.remarks import models_vary
from kdexp.sweep.row import SweepRow

MOST_CURVES = 8


def name_of(row: SweepRow, table: DataTable) -> str:
    """The name of a row: what tells it from the other rows of its table."""
    words = [row.mark, row.role if row.role != "distilled" else "", row.model if models_vary(table) else ""]
    words += [row.method, written_values(row.settings, table.columns)]
    return " ".join(word for word in words if word)


def together(rows: Sequence[SweepRow], table: DataTable) -> str:
    """The name of rows that are drawn alike: that of a single one, else their method or role and their number."""
    if len(rows) == 1:
        return name_of(rows[0], table)
    methods = {row.method for row in rows}
    same = len(methods) == 1 and rows[0].role == "distilled"
    return f"{methods.pop() if same else rows[0].drawn_as}, {len(rows)} rows"


def marks_of(table: DataTable) -> dict[str, Mark]:
    """Colour and mark of every method in a table, by `SweepRow.drawn_as`."""
    return marks(row.drawn_as for row in table.rows)


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


def with_curves(table: DataTable) -> list[SweepRow]:
    """The students whose curves are drawn, in the order of the table; of many the best on validation data, before controls."""
    order = list(PARTS)
    students = [row for row in chosen(table) if row.role != "teacher"]
    students.sort(key=lambda row: (order.index(row.role), not row.mark, -(row.validation_mean or 0.0)))
    drawn = {id(row) for row in students[:MOST_CURVES]}
    return [row for row in table.rows if id(row) in drawn]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points (cost, worth), cheapest first.

    One beats another if it costs no more and is worth no less, and is not its equal in both.
    """
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1])):
        if not kept or points[index][1] > points[kept[-1]][1] or points[index] == points[kept[-1]]:
            kept.append(index)
    return kept
