"""Files that a run leaves in its folder: the table in three formats, and the numbers of every epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.files import reason, write_whole
from kdexp.report.rows import Row, add_published, make_rows, without_test
from kdexp.report.shortened import shortened_remark, shortenings
from kdexp.report.table import COLUMNS, csv_text, markdown
from kdexp.store.schema import self_digest
from kdexp.text.characters import one_line

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.training.entry import Entry


OF_TRIAL = "A trial of a search, judged by validation accuracy: test accuracies are shown for the final training alone."


@dataclass(frozen=True)
class Report:
    """The table of a run, and how writing it went."""

    rows: list[Row]
    notes: list[str]
    """Remarks on shortened runs and on published numbers."""
    failure: str
    """Why files are missing; empty if all were written."""


def write(
    folder: Path, entries: list[Entry], experiment: Experiment, overrides: Sequence[str], *, trial: bool = False
) -> Report:
    """Makes the table of a run and writes its files and `metrics.csv`.

    It has published numbers where the overrides allow it; that of a search's `trial` has nothing measured on test images.
    """
    rows = make_rows(entries, experiment)
    if trial:
        rows, notes = list(map(without_test, rows)), [OF_TRIAL]
    else:
        notes = add_published(rows, experiment, overrides)
    if found := shortenings(experiment.config, overrides):
        notes.insert(0, shortened_remark(found))
        for row in rows:
            row.shortened = "; ".join(found)
    try:
        write_history(folder, entries)
        write_table(folder, rows, experiment, notes)
    except OSError as error:
        return Report(rows, notes, reason(error))
    return Report(rows, notes, "")


def write_table(folder: Path, rows: list[Row], experiment: Experiment, notes: Sequence[str] = ()) -> None:
    """Writes `table.csv`, `table.md` and `table.json`; the last also has the relative path of the store and its own digest."""
    plain = [row.plain() for row in rows]
    single = [{name: value for name, value in row.items() if name != "class_accuracies"} for row in plain]
    write_whole(folder / "table.csv", csv_text(list(single[0]), single))
    write_whole(
        folder / "table.md", markdown(rows, COLUMNS) + "".join(f"\n- {one_line(note)}" for note in notes) + "\n" * bool(notes)
    )
    table = {"store": Path(os.path.relpath(experiment.store.root, folder)).as_posix(), "rows": plain}
    write_whole(folder / "table.json", json.dumps({**table, "digest": self_digest(table)}, indent=1), lasting=True)


def write_history(folder: Path, entries: list[Entry]) -> None:
    """Writes `metrics.csv`: a line per learner and epoch, with a column for every loss that any learner has."""
    lines = [{"role": e.role, "model": e.model, **epoch} for e in entries if e.stored for epoch in e.stored.result["history"]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    write_whole(folder / "metrics.csv", csv_text(names, lines))
