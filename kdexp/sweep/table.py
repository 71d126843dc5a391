"""A comparison for terminals and in Markdown: a table per data set, and remarks."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, JustifyMethod
from rich.table import Table

from kdexp.report.table import HEAD_RULE, Column, fitting, markdown, table_width
from kdexp.sweep.axes import headings, written_value, written_values
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.remarks import level_of, missing, models_vary, remarks, span
from kdexp.sweep.row import SweepRow
from kdexp.text.characters import one_line
from kdexp.text.numbers import MISSING, percent, plus_minus, signed, written

LISTED = 20
"""Lines about unfinished jobs that are printed at most; the files list all."""
INTERVAL = "interval"
"""Heading of the intervals, after their level."""
FOLDING = ("role", "method", "settings")


def show(comparison: Comparison, console: Console) -> None:
    """Prints every table with its remarks, then what is missing from them."""
    for number, table in enumerate(comparison.tables):
        if number:
            console.print()
        console.print(draw(table, console.width), markup=False)
        for sentence, _, command in (remark.partition("\n") for remark in remarks(table)):
            console.print(one_line(sentence), markup=False, highlight=False)
            if command:  # unwrapped, so that it can be copied
                console.print(one_line(command), markup=False, highlight=False, soft_wrap=True)
    lines = missing(comparison)
    for line in lines[:LISTED]:
        console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)
    if len(lines) > LISTED:
        console.print(f"  and {len(lines) - LISTED} more, all in sweep.md", highlight=False)


def draw(table: DataTable, width: int) -> Table:
    """The table for a terminal of that width; text that does not fit is shortened or wrapped, never cut."""
    drawn = Table(title=title(table), box=HEAD_RULE, pad_edge=False, padding=0)
    columns = fitting(table.rows, width, columns_of(table))
    if narrow := table_width(table.rows, columns) > width:
        columns = fitting(table.rows, width, columns_of(table, narrow=True))
    for column in columns:
        folds = narrow and column.heading in FOLDING
        justify: JustifyMethod = "right" if column.right else "left"
        drawn.add_column(column.heading, justify=justify, no_wrap=not folds, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(column.cell(row) for column in columns))
    return drawn


def title(table: DataTable) -> str:
    """The data set and, unless they have a column, teacher and student; says whether runs were shortened."""
    shortened = f" ({'partly ' if table.partly_shortened else ''}shortened)" if table.shortened else ""
    if models_vary(table):
        return f"{table.dataset}{shortened}"
    models = dict.fromkeys((row.role == "teacher", row.model) for row in table.rows)
    return f"{table.dataset}: {' teaches '.join(model for _, model in models)}{shortened}"


def text(comparison: Comparison) -> str:
    """The whole report in Markdown."""
    parts = []
    for table in comparison.tables:
        columns = columns_of(table)
        notes = "".join("- " + "\n".join(map(one_line, remark.split("\n"))) + "\n" for remark in remarks(table))
        parts.append(f"## {title(table)}\n\n{markdown(table.rows, columns)}\n{notes}")
    lines = [f"  - {line.strip()}" if line.startswith(" ") else f"- {line}" for line in map(one_line, missing(comparison))]
    if lines:
        parts.append("## Not in the tables\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def columns_of(table: DataTable, *, narrow: bool = False) -> list[Column[SweepRow]]:
    """Columns for this table; if `narrow`, methods are named by their options and all settings share one column."""
    settings = _settings_together(table) if narrow else _settings_apart(table)
    validated = any(row.validation_mean is not None for row in table.rows if row.role != "teacher")
    validation = [Column[SweepRow]("val %", lambda row: percent(row.validation_mean), always=True)] if validated else []
    model = [Column[SweepRow]("model", lambda row: row.model, always=True, right=False)] if models_vary(table) else []
    return [
        Column("", lambda row: row.mark, always=True, right=False),
        Column("role", lambda row: _breakable(row.role) if narrow else row.role, always=True, right=False),
        *model,
        Column("method", lambda row: _breakable(row.short_method) if narrow else row.method, always=True, right=False),
        *settings,
        Column("trials", lambda row: written(row.trials, ",d"), always=True),
        Column("n", lambda row: f"{row.n:,}", always=True),
        *validation,
        Column("test %", lambda row: plus_minus(row.test_mean, row.test_std), always=True),
        Column("balanced %", lambda row: plus_minus(row.balanced_mean, row.balanced_std), always=True),
        Column("vs base", lambda row: signed(row.difference.mean) if row.difference else MISSING, always=True),
        Column("published", lambda row: str(row.published or MISSING), always=True),
        Column("Δ in SE", lambda row: written(row.standard_errors, "+,.1f"), always=True),
        Column("ms / image", lambda row: written(row.latency_ms, ",.3f"), always=True),  # measured only on request
        _interval_column(table),
        Column("over seeds alone", lambda row: span(row.difference.over_seeds) if row.difference else MISSING),
        Column("n needed", _needed),
        Column("params", lambda row: f"{row.parameters:,}"),
    ]


def _breakable(name: str) -> str:
    """The name with spaces, at which it can be wrapped."""
    return name.replace("_", " ")


def _settings_apart(table: DataTable) -> list[Column[SweepRow]]:
    return [Column(heading, _setting(key), always=True) for key, heading in headings(table.columns).items()]


def _settings_together(table: DataTable) -> list[Column[SweepRow]]:
    return [Column("settings", lambda row: written_values(row.settings, table.columns), always=True, right=False)]


def _setting(key: str) -> Callable[[SweepRow], str]:
    return lambda row: written_value(row.settings[key]) if key in row.settings else MISSING


def _interval_column(table: DataTable) -> Column[SweepRow]:
    """The intervals under their level, or with it in each cell if the levels differ."""
    levels = {level_of(row.difference) for row in table.compared if row.difference}
    if len(levels) == 1:
        return Column(f"{levels.pop()} {INTERVAL}", _interval)
    return Column(INTERVAL, lambda row: _interval(row) + (f" ({level_of(row.difference)})" if _has_interval(row) else ""))


def _has_interval(row: SweepRow) -> bool:
    return _interval(row) != MISSING


def _interval(row: SweepRow) -> str:
    return span(row.difference.over_seeds_and_images or row.difference.over_seeds) if row.difference else MISSING


def _needed(row: SweepRow) -> str:
    if row.difference is None or not row.difference.within_noise:
        return MISSING
    enough = [interval.sufficient_n for interval in row.difference.intervals]
    return "∞" if None in enough else f"{max(n for n in enough if n is not None):,}"
