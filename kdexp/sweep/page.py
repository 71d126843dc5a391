"""`report.html`: a self-contained page of a comparison, and its pictures as files."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from kdexp.files import remove_drafts, write_whole
from kdexp.report.table import Column
from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.page_rows import Details, command_line
from kdexp.sweep.pictures import available
from kdexp.sweep.pictures.slices import slices
from kdexp.sweep.read import Sweep
from kdexp.sweep.remarks import remarks
from kdexp.sweep.row import SweepRow
from kdexp.sweep.table import columns_of, title
from kdexp.text.characters import visible

if TYPE_CHECKING:
    from kdexp.sweep.pictures.style import Picture

UNFOLDED = 20
"""A longer list of unfinished jobs is collapsed."""


def illustrate(comparison: Comparison, sweep: Sweep, folder: Path) -> str:
    """Writes `report.html` and, if matplotlib is installed, `pictures/`; returns a message. Raises `OSError`."""
    sources = Origins(sweep)
    pictures: list[list[Picture]] = [[] for _ in comparison.tables]
    if available():
        from kdexp.sweep.pictures.drawing import draw_all

        pictures = draw_all(comparison, sources)
        keep_pictures([picture for of_table in pictures for picture in of_table], folder / "pictures")
    write_whole(folder / "report.html", page(comparison, sources, pictures))
    if not available():
        return 'report.html is next to them, without pictures: pip install "kdexp[plot]" adds them'
    return "report.html and pictures/ are next to them"


def keep_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Writes every picture as PNG and SVG; raises `OSError`."""
    folder.mkdir(exist_ok=True)
    remove_drafts(folder)
    for picture in pictures:
        write_whole(folder / f"{picture.name}.png", picture.png)
        write_whole(folder / f"{picture.name}.svg", picture.svg)


def page(comparison: Comparison, sources: Origins, pictures: Sequence[Sequence[Picture]]) -> str:
    """The HTML of the page, with all names and values escaped."""
    names = ", ".join(Path(folder).resolve().name for folder in comparison.folders)
    details = Details(sources)
    body = [f"<h1>{escape(names)}</h1>", *details.about(comparison)]
    for number, (table, drawn) in enumerate(zip(comparison.tables, pictures, strict=True), 1):
        body += _section(table, drawn, f"{number}-", details)
    body += _unfinished(comparison, details)
    skeleton = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    return visible(skeleton.substitute(title=escape(f"kdexp: {names}"), body="\n".join(body)))


def _section(table: DataTable, pictures: Sequence[Picture], prefix: str, details: Details) -> Iterator[str]:
    yield f"<h2>{escape(title(table))}</h2>"
    yield from _table(table, prefix)
    yield "<ul>" + "".join(map(_remark, remarks(table))) + "</ul>"
    if pictures:
        yield '<h3>Pictures</h3><div class="pictures">'
        yield from map(_figure, pictures)
        yield "</div>"
        yield from (f'<p class="soft">{escape(sentence)}</p>' for sentence in slices(table)[1])
    yield "<h3>Command, configuration and provenance of each row</h3>"
    for number, row in enumerate(table.rows, 1):
        yield from details.of_row(row, table, f"{prefix}{number}", number)


def _remark(remark: str) -> str:
    sentence, _, command = remark.partition("\n")
    return f"<li>{escape(sentence)}{command_line(command.strip()) if command else ''}</li>"


def _table(table: DataTable, prefix: str) -> Iterator[str]:
    columns = [column for column in columns_of(table) if column.has_values(table.rows)]
    yield '<div class="wide"><table><thead><tr><th class="right">row</th>'
    yield "".join(f"<th{_side(column)}>{escape(column.heading)}</th>" for column in columns) + "</tr></thead><tbody>"
    for number, row in enumerate(table.rows, 1):
        cells = "".join(f"<td{_side(column)}>{escape(column.cell(row))}</td>" for column in columns)
        mark = ' class="chosen"' if row.mark else ""
        yield f'<tr{mark}><td class="right"><a href="#{prefix}{number}">{number}</a></td>{cells}</tr>'
    yield "</tbody></table></div>"


def _side(column: Column[SweepRow]) -> str:
    return ' class="right"' if column.right else ""


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.svg).decode()
    caption = escape(picture.caption)
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _unfinished(comparison: Comparison, details: Details) -> Iterator[str]:
    if comparison.complete:
        return
    jobs = comparison.unfinished
    yield "<h2>Not in the tables</h2>"
    yield f"<p>{comparison.jobs - len(jobs)} of {comparison.jobs} jobs are finished.</p>"
    if jobs:
        yield f"<details{' open' if len(jobs) <= UNFOLDED else ''}><summary>Unfinished jobs</summary>"
        yield '<div class="wide"><table><thead><tr><th>job</th><th>state</th><th>why</th></tr></thead><tbody>'
        for job in jobs:
            command = f'<code class="command">{escape(details.command_of(job.folder))}</code>'
            why = f'<td class="why">{escape(job.reason)}{command}</td>'
            yield f"<tr><td>{escape(Path(job.folder).name)}</td><td>{escape(job.state)}</td>{why}</tr>"
        yield "</tbody></table></div></details>"
    if unread := [*comparison.unusable, *comparison.damaged]:
        yield "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in unread) + "</ul>"
