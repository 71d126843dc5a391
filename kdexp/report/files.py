"""What a run leaves in its folder: the table in three formats, and every epoch's numbers."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.report.table import markdown

if TYPE_CHECKING:
    from kdexp.experiment import Entry, Experiment
    from kdexp.report.rows import Row


def write_table(folder: Path, rows: list[Row], experiment: Experiment) -> None:
    """Writes `table.csv`, `table.md` and `table.json`; the last also says where the store lies, seen from the folder."""
    plain = [row.plain() for row in rows]
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(plain[0]))
        writer.writeheader()
        writer.writerows(plain)
    (folder / "table.md").write_text(markdown(rows))
    store = os.path.relpath(experiment.store.root, folder)
    (folder / "table.json").write_text(json.dumps({"store": store, "rows": plain}, indent=1))


def write_history(folder: Path, entries: list[Entry]) -> None:
    """Writes `metrics.csv`: a line per learner and epoch, its columns the union of all losses' names."""
    lines = [{"role": e.role, "model": e.model, **epoch} for e in entries if e.stored for epoch in e.stored.result["history"]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(lines)
