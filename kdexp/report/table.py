"""The comparison table of a run, for terminals and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from rich.box import Box
from rich.table import Table

from kdexp.text.characters import one_line
from kdexp.text.numbers import MISSING, duration, percent, plus_minus, signed, written

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.report.rows import Row

AnyRow = TypeVar("AnyRow")

WORTH_STACKING = 3
"""A heading is broken into two lines if its column becomes narrower by this many characters."""
METHOD_ROOM = 8
"""The method's column gets more characters than this, so that it wraps between words."""
YIELDING = ("smaller", "time", "params")
"""Columns that are dropped to make that room, in order."""
OF_INT8 = ("MB", "ms / image")
"""Columns that are shown in any terminal next to a quantised row, which is smaller and faster but has as many parameters."""

HEAD_RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
"""One space between columns and a line under the headings."""


class Column(NamedTuple, Generic[AnyRow]):
    """A heading, the text of its cells, and whether it is shown in any terminal, however narrow."""

    heading: str
    text: Callable[[AnyRow], str]
    always: bool = False
    right: bool = True

    def cell(self, row: AnyRow) -> str:
        """The text on one line, without control characters."""
        return one_line(self.text(row))

    def has_values(self, rows: Sequence[AnyRow]) -> bool:
        """Whether any row has a value in this column."""
        return any(self.text(row) not in (MISSING, "") for row in rows)

    def width(self, rows: Sequence[AnyRow]) -> int:
        """Its width in characters, without wrapping."""
        return max(*(len(line) for line in self.heading.split("\n")), *(len(self.cell(row)) for row in rows), 0)

    def stacked(self, rows: Sequence[AnyRow]) -> Column[AnyRow]:
        """The same column with a heading of two lines, if that saves room."""
        first, _, last = self.heading.rpartition(" ")
        narrow = self._replace(heading=f"{first}\n{last}")
        return narrow if first and self.width(rows) - narrow.width(rows) >= WORTH_STACKING else self


COLUMNS: tuple[Column[Row], ...] = (
    Column("role", lambda row: row.role, always=True, right=False),
    Column("model", lambda row: row.model, always=True, right=False),
    Column("method", lambda row: row.method if row.status == "finished" else row.status, always=True, right=False),
    Column("params", lambda row: written(row.parameters, ",d"), always=True),
    Column("training only", lambda row: written(row.training_only_parameters or None, "+,d")),
    Column("smaller", lambda row: written(row.compression, ",.1f") + ("×" if row.compression else ""), always=True),
    Column("test %", lambda row: percent(row.test_top1), always=True),
    Column("balanced %", lambda row: percent(row.balanced_accuracy), always=True),
    Column("top-5 %", lambda row: percent(row.test_top5)),
    Column("vs base", lambda row: signed(row.difference), always=True),
    Column("published", lambda row: plus_minus(row.published, row.published_std), always=True),
    Column("Δ in SE", lambda row: written(row.standard_errors, "+,.1f")),
    Column("val %", lambda row: percent(row.validation_top1)),
    Column("best epoch", lambda row: written(row.best_epoch, ",d")),
    Column("its test %", lambda row: percent(row.best_epoch_test_top1)),
    Column("as teacher %", lambda row: percent(row.agreement)),
    Column("NLL", lambda row: written(row.nll, ",.3f")),
    Column("ECE %", lambda row: percent(row.ece)),
    Column("MACs", lambda row: written(row.macs, ",d")),
    Column("MB", lambda row: written(row.size_mb, ",.2f")),
    Column("ms / image", lambda row: written(row.latency_ms, ",.3f"), always=True),  # measured only on request
    Column("images / s", lambda row: written(row.images_per_second, ",.0f"), always=True),
    Column("time", lambda row: duration(row.train_seconds), always=True),
    Column("n", lambda row: written(row.n, ",d")),
)


def table_width(rows: Sequence[AnyRow], columns: Iterable[Column[AnyRow]]) -> int:
    """Characters per line without wrapping: a space at the left edge and one after each column."""
    return 1 + sum(column.width(rows) + 1 for column in columns)


def fitting(rows: Sequence[AnyRow], width: int, columns: Iterable[Column[AnyRow]]) -> list[Column[AnyRow]]:
    """Columns marked `always`, then as many others as fit, in order."""
    candidates = [column for column in columns if column.has_values(rows)]
    space = width - table_width(rows, [column for column in candidates if column.always])
    shown = []
    for column in candidates:
        if not column.always:
            space -= column.width(rows) + 1
        if column.always or space >= 0:
            shown.append(column)
    return shown


def columns_for(rows: Sequence[Row]) -> list[Column[Row]]:
    """All columns; next to a quantised row those in `OF_INT8` are always shown."""
    quantised = any(row.role == "int8" for row in rows)
    return [column._replace(always=column.always or (quantised and column.heading in OF_INT8)) for column in COLUMNS]


def readable(rows: Sequence[Row], width: int) -> list[Column[Row]]:
    """Columns that fit; if the method has too little room, with headings of two lines and without those in `YIELDING`."""
    columns = fitting(rows, width, columns_for(rows))
    if _crowds_method(rows, width, columns):
        columns = [column.stacked(rows) for column in columns]
    for heading in YIELDING:
        if _crowds_method(rows, width, columns):
            columns = [column for column in columns if column.heading != heading]
    return columns


def _crowds_method(rows: Sequence[Row], width: int, columns: Sequence[Column[Row]]) -> bool:
    others = [column for column in columns if column.heading != "method"]
    return width - table_width(rows, others) <= METHOD_ROOM


def draw_table(rows: list[Row], experiment: Experiment, width: int) -> Table:
    """The table for a terminal of that width: the method wraps within 80 characters, wider terminals show more columns."""
    shortened = " (shortened)" if any(row.shortened for row in rows) else ""
    title = f"{experiment.config['choices']['dataset']}, seed {experiment.settings.seed}{shortened}"
    table = Table(title=title, box=HEAD_RULE, pad_edge=False, padding=0)
    columns = readable(rows, width)
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=column.heading != "method")
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return table


def markdown(rows: Sequence[AnyRow], columns: Iterable[Column[AnyRow]]) -> str:
    """The table in Markdown, with every column that has values."""
    shown = [column for column in columns if column.has_values(rows)]
    lines = [[column.heading for column in shown], ["--:" if column.right else "---" for column in shown]]
    lines += [[column.cell(row) for column in shown] for row in rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def csv_text(names: list[str], lines: list[dict[str, Any]]) -> str:
    """CSV text with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=names)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
