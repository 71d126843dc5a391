"""Parts of the page that show where a sweep and each of its rows come from, and the commands that repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

import yaml

from kdexp.report.table import percent
from kdexp.sweep.axes import written_values
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.remarks import models_vary, signed
from kdexp.sweep.repeat import command_words, commands
from kdexp.sweep.row import SweepRow

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Details:
    """Makes these parts as HTML."""

    def __init__(self, sources: Origins):
        self.sources = sources

    def command_of(self, folder: str) -> str:
        """Command that repeats the job in this folder."""
        (command,) = commands([self.sources.job(folder)])
        return command

    def about(self, comparison: Comparison) -> Iterator[str]:
        """When and with which versions the rows were trained, and the commands of the sweeps."""
        rows = [row for table in comparison.tables for row in table.rows]
        times, trained_with = set(), dict[str, None]()
        for result in map(self.sources.result, (key for row in rows for key in row.keys)):
            times.add(result.trained_at)
            trained_with[versions(result.provenance)] = None
        if rows:
            when = " to ".join(dict.fromkeys((min(times), max(times))))
            yield f'<p class="soft">Trained {escape(when)}. {escape("; ".join(trained_with))}.</p>'
        for folder in self.sources.sweep.folders:
            if words := command_words(folder):
                yield command_line(shlex.join(["kdexp", *words]))

    def of_row(self, row: SweepRow, table: DataTable, anchor: str, number: int) -> Iterator[str]:
        """A collapsed part with the commands that repeat a row, its seeds, provenance and configuration."""
        words = [row.mark, row.role, row.model if models_vary(table) else "", row.method]
        name = " ".join(word for word in (*words, written_values(row.settings, table.columns)) if word)
        yield f'<details id="{anchor}"><summary>{number}. {escape(name)}: {percent(row.test_mean)} %</summary>'
        jobs = self.sources.jobs(row)
        yield from map(command_line, commands(jobs))
        yield from _seeds(row)
        provenance = self.sources.result(row.keys[0]).provenance
        yield f"<p>Provenance{_of_seed(row)}:</p><pre>{escape(_yaml(provenance))}</pre>"
        yield f"<p>Configuration{_of_seed(row)}:</p><pre>{escape(_yaml(jobs[0].config))}</pre></details>"


def command_line(command: str) -> str:
    """A command that one click selects."""
    return f'<code class="command">{escape(command)}</code>'


def versions(provenance: dict[str, Any]) -> str:
    """Versions and hardware of a training, on one line."""
    packages = ", ".join(f"{name} {provenance['versions'][name]}" for name in ("kdexp", "torch"))
    git = provenance["git"]
    commit = f", commit {git['commit'][:10]}{' with changes' if git['changed'] else ''}" if git else ""
    return f"{packages}, Python {provenance['python']} on {provenance['device']}{commit}"


def _seeds(row: SweepRow) -> Iterator[str]:
    differences = dict(zip(row.difference.seeds, row.difference.points, strict=True)) if row.difference else {}
    yield '<div class="wide"><table><thead><tr><th>seed</th><th class="right">val %</th><th class="right">test %</th>'
    yield '<th class="right">vs base</th><th>key in the store</th><th>job</th></tr></thead><tbody>'
    for seed, validation, test, key, job in zip(row.seeds, row.validation, row.test, row.keys, row.jobs, strict=True):
        numbers = (percent(validation), percent(test), signed(differences.get(seed)))
        cells = "".join(f'<td class="right">{number}</td>' for number in numbers)
        yield f"<tr><td>{seed}</td>{cells}<td><code>{escape(key)}</code></td><td>{escape(job)}</td></tr>"
    yield "</tbody></table></div>"


def _of_seed(row: SweepRow) -> str:
    return f" of seed {row.seeds[0]}" if row.n > 1 else ""


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
