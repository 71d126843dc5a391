"""`report.html`: a self-contained page of a comparison; and its pictures as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.files import remove_drafts, write_whole
from kdexp.page.document import document
from kdexp.page.html import Html, command_line, tag
from kdexp.report.page_table import page_table
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.lead import lead, page_title
from kdexp.sweep.origins import Origins
from kdexp.sweep.page_charts import charts
from kdexp.sweep.page_rows import Details, seeds_of
from kdexp.sweep.pictures import available
from kdexp.sweep.read import Sweep
from kdexp.sweep.remarks import remarks
from kdexp.sweep.row import SweepRow
from kdexp.sweep.table import columns_of, title
from kdexp.text.glossary import SWEEPS

if TYPE_CHECKING:
    from kdexp.sweep.pictures.style import Picture

UNFOLDED = 20
"""A longer list of unfinished jobs is collapsed."""


def illustrate(comparison: Comparison, sweep: Sweep, folder: Path) -> str:
    """Writes the page and, if matplotlib is installed, `pictures/`; returns a message. Raises `OSError`.

    The page is `report.html`, but `sweep.html` in the folder of a run, which has a page of its own.
    """
    sources = Origins(sweep)
    name = "sweep.html" if (folder / "table.json").exists() else "report.html"
    write_whole(folder / name, page(comparison, sources))
    if not available():
        return f'{name} is next to them; pip install "kdexp[plot]" adds its pictures as files'
    from kdexp.sweep.pictures.drawing import draw_all

    pictures = draw_all(comparison, sources)
    keep_pictures([picture for of_table in pictures for picture in of_table], folder / "pictures")
    return f"{name} and pictures/ are next to them"


def keep_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Writes every picture as PNG and SVG; raises `OSError`."""
    folder.mkdir(exist_ok=True)
    remove_drafts(folder)
    for picture in pictures:
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.svg", picture.svg)


def page(comparison: Comparison, sources: Origins) -> str:
    """The HTML of the page, with all names and values escaped."""
    details, heading = Details(sources), page_title(comparison, sources)
    body = [tag("h1", heading)]
    for number, table in enumerate(comparison.tables, 1):
        if len(comparison.tables) > 1:
            body.append(tag("h2", title(table)))
        body += _section(table, f"{number}-", details)
    body += _unfinished(comparison, details)
    body += details.about(comparison)
    return document(heading, body)


def _section(table: DataTable, prefix: str, details: Details) -> Iterator[Html]:
    yield tag("p", lead(table), class_="lead")
    yield from charts(table, details.sources)
    yield tag("h3", "All rows")
    columns = columns_of(table)
    intervals = [column.heading for column in columns if column.heading.endswith("interval")]

    def line(number: int, row: SweepRow) -> dict[str, object]:
        tips = seeds_of(row)
        tips |= {heading: tips["vs base"] for heading in intervals if "vs base" in tips}
        command = "\n".join(details.commands_of(row))
        return {"tips": tips, "command": command, "target": f"{prefix}{number}", "chosen": bool(row.mark)}

    drawn, meanings = page_table(table.rows, columns, f"rows-{prefix[:-1]}", SWEEPS, line)
    yield from (drawn, tag("ul", *map(_remark, remarks(table))), meanings)
    parts = [details.of_row(row, table, f"{prefix}{number}", number) for number, row in enumerate(table.rows, 1)]
    yield tag("section", tag("h3", "Command, configuration and provenance of each row"), *parts, class_="details")


def _remark(remark: str) -> Html:
    sentence, _, command = remark.partition("\n")
    return tag("li", sentence, *([command_line(command.strip())] if command else []))


def _unfinished(comparison: Comparison, details: Details) -> Iterator[Html]:
    if comparison.complete:
        return
    jobs = comparison.unfinished
    yield tag("h2", "Not in the tables")
    yield tag("p", f"{comparison.jobs - len(jobs)} of {comparison.jobs} jobs are finished.")
    if jobs:
        head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in ("job", "state", "why"))))
        rows = [
            tag(
                "tr",
                tag("td", Path(job.folder).name),
                tag("td", job.state),
                tag("td", job.reason, command_line(details.command_of(job.folder)), class_="why"),
            )
            for job in jobs
        ]
        table = tag("div", tag("table", head, tag("tbody", *rows)), class_="wide")
        yield tag("details", tag("summary", "Unfinished jobs"), table, open=len(jobs) <= UNFOLDED)
    if unread := [*comparison.unusable, *comparison.damaged]:
        yield tag("ul", *(tag("li", sentence) for sentence in unread))
