"""A comparison as LaTeX tables (package booktabs), whose captions say what a reader of a paper must know."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kdexp.report.published import explain
from kdexp.report.shortened import shortened_remark
from kdexp.report.table import Column
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.protocol import seed_words, training_words
from kdexp.sweep.remarks import level_of
from kdexp.sweep.row import BEST, BEST_OF_METHOD, SweepRow
from kdexp.sweep.table import columns_of, title
from kdexp.text.latex import escape
from kdexp.version import __version__

LEFT_OUT = ("over seeds alone", "n needed")
BOLD = ("test %", "vs base")
ONE_COLUMN = 60
"""Characters of a line that fit into one of two columns, roughly."""


def latex(comparison: Comparison, origins: Origins) -> str:
    """All tables, to be read with `\\input`."""
    head = f"% Written by kdexp {__version__}. Put \\usepackage{{booktabs}} into the preamble.\n"
    return head + "\n".join(_table(table, origins) for table in comparison.tables)


def stands_out(row: SweepRow) -> bool:
    """Whether it is better than its baseline beyond its intervals."""
    return row.difference is not None and row.difference.within_noise is False and row.difference.mean > 0


def _table(table: DataTable, origins: Origins) -> str:
    columns = _columns(table)
    cells = [[_cell(column, row) for column in columns] for row in table.rows]
    heads = [escape(column.heading) for column in columns]
    wide = sum(column.width(table.rows) for column in columns) > ONE_COLUMN
    environment = "table*" if wide else "table"
    lines = [
        rf"\begin{{{environment}}}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{' '.join(map(escape, caption(table, origins)))}}}",
        rf"\label{{tab:{re.sub(r'[^a-z0-9]+', '-', title(table).lower()).strip('-')}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.right else 'l' for column in columns)}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        *_body(table, cells),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _columns(table: DataTable) -> list[Column[SweepRow]]:
    columns = [column for column in columns_of(table) if column.has_values(table.rows) and column.heading not in LEFT_OUT]
    alike = len({row.n for row in table.rows if row.role != "teacher"}) == 1  # then the caption says it
    return [column for column in columns if column.heading != "n" or not alike]


def _cell(column: Column[SweepRow], row: SweepRow) -> str:
    text = escape(column.cell(row))
    return rf"\textbf{{\boldmath {text}}}" if column.heading in BOLD and stands_out(row) else text


def _body(table: DataTable, cells: list[list[str]]) -> Iterator[str]:
    """The rows, with a rule between roles."""
    role = ""
    for row, line in zip(table.rows, cells, strict=True):
        if row.role != role:
            yield r"\midrule"
            role = row.role
        yield " & ".join(line) + r" \\"


def caption(table: DataTable, origins: Origins) -> list[str]:
    """Sentences on the numbers, the seeds, the training, the selection, and what is bold."""
    return [
        *_numbers(table),
        *_training(table, origins),
        *_selection(table),
        *_intervals(table),
        *explain(table.published, table.departures),
    ]


def _numbers(table: DataTable) -> Iterator[str]:
    students = [row for row in table.rows if row.role != "teacher"] or table.rows
    teachers = [row.seeds for row in table.rows if row.role == "teacher"]
    spread = "mean ± standard deviation over " if any(row.n > 1 for row in students) else ""
    whose = f"; teacher: {seed_words(teachers)}" if teachers else ""
    yield f"{title(table)}."
    yield f"Test accuracy in % after the last epoch, {spread}{seed_words([row.seeds for row in students])}{whose}."
    if any(row.difference for row in table.rows):
        yield "vs base: difference to the student without distillation in percentage points, paired by seed."


def _training(table: DataTable, origins: Origins) -> Iterator[str]:
    jobs = {str(job.folder): job for row in table.rows for job in origins.jobs(row)}
    precisions = list(dict.fromkeys(str(row.settings["precision"]) for row in table.rows))
    if clauses := training_words(list(jobs.values()), precisions):
        yield f"Training: {', '.join(clauses)}."
    if table.shortened:
        yield shortened_remark(table.shortened, partly=table.partly_shortened)


def _selection(table: DataTable) -> Iterator[str]:
    marks = {row.mark: row.chosen_among for row in table.rows if row.mark}
    meanings = [f"{BEST}: highest mean validation accuracy of {marks[BEST]:,} configurations"] if BEST in marks else []
    if BEST_OF_METHOD in marks:
        meanings.append(f"{BEST_OF_METHOD}: highest {'' if meanings else 'mean validation accuracy '}of its method")
    if meanings:
        yield f"{'; '.join(meanings)}; test images were not used for selection."
    elif table.searched:
        yield from table.searched
    else:
        yield "No configuration was selected: all that were run are listed."


def _intervals(table: DataTable) -> Iterator[str]:
    """How the intervals were made, and the rule of what is bold."""
    judged = [row.difference for row in table.compared if row.difference and row.difference.over_seeds]
    if not judged:
        if table.compared:
            yield "Intervals are over test images only, since there is one seed; therefore nothing is bold."
        return
    images = all(difference.over_seeds_and_images for difference in judged)
    levels = " or ".join(dict.fromkeys(map(level_of, judged)))
    jointly = ", jointly 95 % (Bonferroni)" if levels != "95 %" else ""
    compared = sum(row.difference is not None for row in table.rows)
    only = "" if len(judged) == compared else f", computed for {len(judged):,} of {compared:,} rows"
    yield f"Intervals: {levels}{jointly}, over seeds{' and test images' if images else ''}{only}."
    both = "both that interval and the one over seeds alone are" if images else "that interval is"
    yield f"Bold: better than the baseline, and {both} above 0."
