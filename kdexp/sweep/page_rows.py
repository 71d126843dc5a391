"""Parts of the page that show where a sweep and each of its rows come from, and the commands that repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdexp.page.html import Html, command_line, tag
from kdexp.report.origin import versions
from kdexp.report.table import percent, signed
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.remarks import span
from kdexp.sweep.repeat import command_words, commands
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import name_of

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Details:
    """Makes these parts as HTML."""

    def __init__(self, sources: Origins):
        self.sources = sources

    def command_of(self, folder: str) -> str:
        """Command that repeats the job in this folder."""
        (command,) = commands([self.sources.job(folder)])
        return command

    def commands_of(self, row: SweepRow) -> list[str]:
        """Commands that repeat the jobs of a row."""
        return commands(self.sources.jobs(row))

    def about(self, comparison: Comparison) -> Iterator[Html]:
        """Folders and commands of the sweeps, and when and with which versions the rows were trained."""
        yield tag("h2", "Where this comes from")
        for folder in self.sources.sweep.folders:
            yield tag("p", Path(folder).resolve().name, class_="soft")
            if words := command_words(folder):
                yield command_line(shlex.join(["kdexp", *words]))
        rows = [row for table in comparison.tables for row in table.rows]
        times, trained_with = set(), dict[str, None]()
        for result in map(self.sources.result, (key for row in rows for key in row.keys)):
            times.add(result.trained_at)
            trained_with[versions(result.provenance)] = None
        if rows:
            when = " to ".join(dict.fromkeys((min(times), max(times))))
            yield tag("p", f"Trained {when}. {'; '.join(trained_with)}.", class_="soft")

    def of_row(self, row: SweepRow, table: DataTable, anchor: str, number: int) -> Html:
        """A collapsed part with the commands that repeat a row, its seeds, provenance and configuration."""
        provenance, config = self.sources.result(row.keys[0]).provenance, self.sources.jobs(row)[0].config
        return tag(
            "details",
            tag("summary", f"{number}. {name_of(row, table)}: {percent(row.test_mean)} %"),
            *map(command_line, self.commands_of(row)),
            _seeds(row),
            tag("p", f"Provenance{_of_seed(row)}:"),
            tag("pre", _yaml(provenance)),
            tag("p", f"Configuration{_of_seed(row)}:"),
            tag("pre", _yaml(config)),
            id=anchor,
        )


def seeds_of(row: SweepRow) -> dict[str, str]:
    """The numbers of single seeds behind a row's cells, by heading; those of the difference with its intervals."""
    found = {
        "test %": _by_seed("test %", row.seeds, map(percent, row.test)),
        "val %": _by_seed("val %", row.seeds, map(percent, row.validation)),
    }
    if difference := row.difference:
        lines = [_by_seed("vs base", difference.seeds, map(signed, difference.points))]
        level = f"{100 * (difference.level or 0):.4g} %"
        if interval := difference.over_seeds:
            lines.append(f"{level} over seeds: {span(interval)}")
        if interval := difference.over_seeds_and_images:
            over = "seeds and test images" if difference.over_seeds else "test images"
            lines.append(f"{level} over {over}: {span(interval)}")
        found |= dict.fromkeys(("vs base", "over seeds alone"), "\n".join(lines))
    return found


def _by_seed(name: str, seeds: list[int], numbers: Any) -> str:
    return "\n".join([name, *(f"seed {seed}: {number}" for seed, number in zip(seeds, numbers, strict=True))])


def _seeds(row: SweepRow) -> Html:
    differences = dict(zip(row.difference.seeds, row.difference.points, strict=True)) if row.difference else {}
    names = (
        ("seed", None),
        ("val %", "right"),
        ("test %", "right"),
        ("vs base", "right"),
        ("key in the store", None),
        ("job", None),
    )
    head = tag("thead", tag("tr", *(tag("th", name, scope="col", class_=side) for name, side in names)))
    rows = []
    for seed, validation, test, key, job in zip(row.seeds, row.validation, row.test, row.keys, row.jobs, strict=True):
        numbers = (percent(validation), percent(test), signed(differences.get(seed)))
        cells = [tag("td", number, class_="right") for number in numbers]
        rows.append(tag("tr", tag("td", seed), *cells, tag("td", tag("code", key)), tag("td", _job(job))))
    return tag("div", tag("table", head, tag("tbody", *rows)), class_="wide")


def _job(folder: str) -> str:
    """The name of a job's folder in that of its sweep, without where that is."""
    return "/".join(Path(folder).parts[-2:])


def _of_seed(row: SweepRow) -> str:
    return f" of seed {row.seeds[0]}" if row.n > 1 else ""


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
