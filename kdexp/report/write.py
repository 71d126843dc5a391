"""What a run leaves in its folder: the table in three formats, and every epoch's numbers."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.files import write_whole
from kdexp.report.table import COLUMNS, markdown
from kdexp.store.schema import self_digest

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.report.rows import Row
    from kdexp.training.entry import Entry


def write_table(folder: Path, rows: list[Row], experiment: Experiment) -> None:
    """Writes `table.csv`, `table.md` and `table.json`; the last also says where the store lies, seen from the folder, and holds
    its own digest.
    """
    plain = [row.plain() for row in rows]
    write_whole(folder / "table.csv", csv_text(list(plain[0]), plain))
    write_whole(folder / "table.md", markdown(rows, COLUMNS))
    table = {"store": Path(os.path.relpath(experiment.store.root, folder)).as_posix(), "rows": plain}
    write_whole(folder / "table.json", json.dumps({**table, "digest": self_digest(table)}, indent=1), lasting=True)


def write_history(folder: Path, entries: list[Entry]) -> None:
    """Writes `metrics.csv`: a line per learner and epoch, its columns the union of all losses' names."""
    lines = [{"role": e.role, "model": e.model, **epoch} for e in entries if e.stored for epoch in e.stored.result["history"]]
    names = list(dict.fromkeys(name for line in lines for name in line))
    write_whole(folder / "metrics.csv", csv_text(names, lines))


def csv_text(names: list[str], lines: list[dict[str, Any]]) -> str:
    """The lines under their names, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=names)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
