"""Files of a sweep's report: `sweep.json` with every number, `sweep.csv` with a line per configuration, `sweep.md`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdexp.files import remove_drafts, write_whole
from kdexp.report.table import csv_text
from kdexp.sweep.axes import headings, written_value
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.remarks import missing, remarks
from kdexp.sweep.row import SweepRow
from kdexp.sweep.table import text


def write(comparison: Comparison, folder: Path) -> None:
    """Writes the three files, and creates the folder if needed; raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_drafts(folder)
    write_whole(folder / "sweep.csv", csv_of(comparison))
    write_whole(folder / "sweep.md", text(comparison))
    write_whole(folder / "sweep.json", json.dumps(_plain(comparison), indent=1))


def csv_of(comparison: Comparison) -> str:
    """The content of `sweep.csv`."""
    lines = lines_of(comparison)
    names = list(dict.fromkeys(name for line in lines for name in line))
    return csv_text(names, lines)


def lines_of(comparison: Comparison) -> list[dict[str, Any]]:
    """The lines of `sweep.csv`; not all have the same columns."""
    return [_line(row, table) for table in comparison.tables for row in table.rows]


def _plain(comparison: Comparison) -> dict[str, Any]:
    plain = asdict(comparison)
    for table, content in zip(comparison.tables, plain["tables"], strict=True):
        content["remarks"] = remarks(table)
        for row, line in zip(table.rows, content["rows"], strict=True):
            if row.difference and line["difference"]:
                line["difference"]["within_noise"] = row.difference.within_noise
    return {**plain, "complete": comparison.complete, "lacking": missing(comparison)}


def _line(row: SweepRow, table: DataTable) -> dict[str, Any]:
    """A line of `sweep.csv`: accuracies are fractions of 1, differences are in points, as in `sweep.json`."""
    settings = {heading: row.settings[key] for key, heading in headings(table.columns).items() if key in row.settings}
    line: dict[str, Any] = {
        "dataset": table.dataset,
        "mark": row.mark,
        "role": row.role,
        "model": row.model,
        "method": row.method,
        **{heading: written_value(value) for heading, value in settings.items()},
        "parameters": row.parameters,
        "n": row.n,
        "seeds": " ".join(map(str, row.seeds)),
        "validation_mean": row.validation_mean,
        "test_mean": row.test_mean,
        "test_std": row.test_std,
    }
    line |= {"trials": row.trials} if row.trials is not None else {}
    line |= {"latency_ms": row.latency_ms} if row.latency_ms is not None else {}
    line |= {"shortened": "; ".join(table.shortened)} if table.shortened else {}
    if row.balanced_mean is not None:
        line |= {"balanced_mean": row.balanced_mean, "balanced_std": row.balanced_std}
    if number := row.published:
        line |= {"published": number.mean, "published_std": number.std, "published_n": number.n}
        line |= {"standard_errors": row.standard_errors}
    if difference := row.difference:
        line |= {"difference": difference.mean, "difference_std": difference.std, "correlation": difference.correlation}
        line |= {"level": difference.level, "within_noise": difference.within_noise}
        for name in ("over_seeds", "over_seeds_and_images"):
            if interval := getattr(difference, name):
                line |= {f"{name}_{end}": value for end, value in asdict(interval).items()}
    return line
