"""Selects rows for lines, which vary in one numeric setting, and for maps, which vary in two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from kdexp.report.table import signed
from kdexp.sweep.axes import AxisValues, axis_values, option, written_values
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.read import FINISHED, Sweep
from kdexp.sweep.remarks import models_vary
from kdexp.sweep.row import SweepRow

MOST_SLICES = 6
"""A method whose other settings have more combinations of values gets no pictures."""

LOGARITHMIC = 8
"""An axis is logarithmic if its largest value is at least this many times the smallest."""


@dataclass
class Slice:
    """The distilled rows of one method and student that differ only in one or two numeric settings."""

    model: str
    option: str
    axes: list[str]
    fixed: str
    """Text of the other settings that vary within the method; empty if none do."""
    rows: list[SweepRow]
    student: str = ""
    """Name of the student if the table has several."""

    def at(self, row: SweepRow) -> tuple[float, ...]:
        """Position of a row on the axes."""
        return tuple(row.settings[axis] for axis in self.axes)

    @property
    def comparable(self) -> bool:
        """Whether every row has a difference to a baseline."""
        return all(row.difference for row in self.rows)

    def worth(self, row: SweepRow) -> tuple[float, float | None]:
        """Mean and standard deviation: of the differences in points if all rows have one, else of accuracy in percent."""
        if self.comparable and row.difference:
            return row.difference.mean, row.difference.std
        return 100 * row.test_mean, None if row.test_std is None else 100 * row.test_std

    def numbers(self, row: SweepRow) -> tuple[str, str]:
        """The mean as text, and a smaller text below it: std, and number of seeds if others have more."""
        mean, std = self.worth(row)
        spread = "" if std is None else f"± {std:.2f}"
        fewer = f"(n={row.n})" if row.n < max(each.n for each in self.rows) else ""
        return signed(mean) if self.comparable else f"{mean:.2f}", f"{spread} {fewer}".strip()

    @property
    def name(self) -> str:
        """Its name in titles, with the method as the table has it."""
        methods = {row.method for row in self.rows}
        method = self.option if len(methods) > 1 else methods.pop()
        return " ".join(word for word in (self.student, method, self.fixed) if word)


def slices(table: DataTable) -> tuple[list[Slice], list[str]]:
    """The slices to draw, and a sentence for each method that varies in too many settings."""
    groups = defaultdict[tuple[str, str], list[SweepRow]](list)
    for row in table.rows:
        if row.role == "distilled":
            groups[row.model, row.option].append(row)
    found: list[Slice] = []
    refused = []
    for (model, method), rows in groups.items():
        keys = [key for key in table.columns if len({str(row.settings.get(key)) for row in rows}) > 1]
        axes = [key for key in keys if key != "variant" and all(is_number(row.settings.get(key)) for row in rows)]
        others, student = [key for key in keys if key not in axes], model if models_vary(table) else ""
        cut = list(_cut(model, method, axes, others, rows, student))
        if len(axes) > 2 or len(cut) > MOST_SLICES:
            names = ", ".join(key.rpartition(".")[2] for key in keys)
            refused.append(f"No map of {method}: it varies in {names}; two numeric settings make a map.")
        elif axes:
            found += cut
    return found, refused


def baselines_beside(piece: Slice, table: DataTable) -> list[SweepRow]:
    """The baselines of the same student with the same settings, where they have them, except for the axes."""
    ours = piece.rows[0].settings
    shared = [key for key in table.columns if key in ours and key not in piece.axes]
    rows = [row for row in table.rows if row.role == "baseline" and row.model == piece.model]
    return [row for row in rows if all(row.settings[key] == ours[key] for key in shared if key in row.settings)]


def is_number(value: object) -> bool:
    """Whether a value is a number, which can be on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cut(model: str, method: str, axes: list[str], others: list[str], rows: list[SweepRow], student: str) -> Iterator[Slice]:
    parts = defaultdict[str, list[SweepRow]](list)
    for row in rows:
        parts[written_values(row.settings, others)].append(row)
    for fixed, part in parts.items():
        yield Slice(model, method, axes, fixed, part, student)


def failures(piece: Slice, sweep: Sweep) -> set[tuple[float, ...]]:
    """Positions on the axes of jobs that did not finish their distilled student."""
    found = set()
    for job in sweep.jobs:
        if job.state != FINISHED and job.config and "distilled" not in job.learners:
            values = axis_values(job.config, "distilled")
            if _belongs(values, option(job.config, "student"), option(job.config, "distillation"), piece):
                found.add(tuple(values[axis] for axis in piece.axes))
    return found


def _belongs(values: AxisValues, model: str, method: str, piece: Slice) -> bool:
    """Whether a job belongs to this slice: it has the settings of its rows, except for the axes."""
    theirs = piece.rows[0].settings
    same = all(values[key] == theirs[key] for key in values if key in theirs and key not in piece.axes)
    return model == piece.model and method == piece.option and same and all(is_number(values.get(axis)) for axis in piece.axes)
