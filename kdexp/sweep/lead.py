"""The title of a page, and a table's result in two sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdexp.page.document import days
from kdexp.report.origin import ONE_SEED, dataset_name, outcome
from kdexp.report.table import percent, plus_minus
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.difference import Difference
from kdexp.sweep.origins import Origins
from kdexp.sweep.remarks import number_of, span
from kdexp.sweep.row import BEST, SweepRow
from kdexp.sweep.shown import name_of
from kdexp.text.numbers import signed

LISTED = 3
"""More networks than this are counted."""


def page_title(comparison: Comparison, sources: Origins) -> str:
    """Data sets, teachers and students, and the days on which they were trained."""
    rows = [row for table in comparison.tables for row in table.rows]
    if not rows:
        return "Nothing finished yet"
    datasets = ", ".join(_dataset(table, sources) for table in comparison.tables)
    teachers = _several((row.model for row in rows if row.role == "teacher"), "teachers")
    students = _several((row.model for row in rows if row.role != "teacher"), "students")
    networks = " → ".join(word for word in (teachers, students) if word)
    shortened = [table for table in comparison.tables if table.shortened]
    partly = len(shortened) < len(comparison.tables) or any(table.partly_shortened for table in shortened)
    told = f" ({'partly ' if partly else ''}shortened)" if shortened else ""
    return f"{datasets}: {networks}{told}, {days(sources.result(key).trained_at for row in rows for key in row.keys)}"


def _dataset(table: DataTable, sources: Origins) -> str:
    """The table's data set; an image folder by its own name."""
    config = next((job.config for row in table.rows for job in sources.jobs(row) if job.config), None)
    return (
        table.dataset if config is None else table.dataset.replace(str(config["choices"]["dataset"]), dataset_name(config), 1)
    )


def _several(names: Iterable[str], kind: str) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique) if len(unique) <= LISTED else f"{len(unique)} {kind}"


def lead(table: DataTable) -> str:
    """What distillation brought, and how it was chosen or what it is measured against."""
    compared = [row for row in table.compared if row.role == "distilled"]
    best = [row for row in compared if row.mark == BEST] or compared
    if not best:
        return f"No distilled student can be compared with a baseline yet.{_sentence(_others(table))}"
    if len(best) > 1:
        return _count(best, table) + _sentence(_others(table))
    (row,) = best
    return _single(row, table) + _sentence("; ".join(filter(None, (_choice(row), _others(table)))))


def _sentence(text: str) -> str:
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _single(row: SweepRow, table: DataTable) -> str:
    assert row.difference is not None
    name, reached = name_of(row, table).removeprefix(BEST).strip(), plus_minus(row.test_mean, row.test_std)
    return f"{outcome(name, row.model, reached, row.difference.mean)}{_verdict(row.difference)}."


def _verdict(difference: Difference) -> str:
    interval = difference.over_seeds_and_images or difference.over_seeds
    seeds = f"{len(difference.seeds)} seeds"
    if interval is None:
        return f". {ONE_SEED}"
    images = f"{difference.test_images:,} test images" if difference.over_seeds_and_images else ""
    over = " and ".join(word for word in (seeds if difference.over_seeds else "", images) if word)
    ends = f" ({100 * (difference.level or 0.95):.4g} % interval {span(interval)} over {over})"
    verdict = {True: ", within noise", False: ": it stands out", None: f". {ONE_SEED}"}
    return ends + verdict[difference.within_noise]


def _count(rows: Sequence[SweepRow], table: DataTable) -> str:
    clear = {
        name_of(row, table): row.difference.mean for row in rows if row.difference and row.difference.within_noise is False
    }
    worse = sum(mean < 0 for mean in clear.values())
    which = f", {worse} of them below the baseline" if worse else ""
    if 0 < len(clear) <= LISTED:
        which = ": " + "; ".join(f"{name} ({signed(mean)} points)" for name, mean in clear.items())
    found = number_of(len(clear), "stands out", "stand out")
    return f"Of {len(rows)} distilled students compared with their baselines, {found}{which}."


def _choice(row: SweepRow) -> str:
    return f"it was chosen on validation data from {row.chosen_among} configurations" if row.mark else ""


def _others(table: DataTable) -> str:
    """The teacher's and the baseline's accuracy, if there is one of each."""
    found = []
    for role in ("teacher", "baseline"):
        rows = [row for row in table.rows if row.role == role]
        if len(rows) == 1:
            found.append(f"the {role} {rows[0].model} has {percent(rows[0].test_mean)} %")
    return ", ".join(found)
