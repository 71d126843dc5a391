"""Draws all pictures of a comparison, in the order of the page. Imports matplotlib."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from matplotlib import rc_context

from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.cost import draw_latency, draw_parameters
from kdexp.sweep.pictures.curves import draw_curves, shown
from kdexp.sweep.pictures.lines import draw_line
from kdexp.sweep.pictures.maps import draw_map
from kdexp.sweep.pictures.slices import failures, slices
from kdexp.sweep.pictures.style import SETTINGS, Picture, chosen, finish


def draw_all(comparison: Comparison, sources: Origins) -> list[list[Picture]]:
    """The pictures of every table; with several tables their names begin with its number."""
    several = len(comparison.tables) > 1
    with rc_context(SETTINGS):
        return [
            list(_of_table(table, sources, f"{number}_" if several else ""))
            for number, table in enumerate(comparison.tables, 1)
        ]


def _of_table(table: DataTable, sources: Origins, prefix: str) -> Iterator[Picture]:
    yield from _of_settings(table, sources, prefix)
    about = _which(table)
    caption = f"Test accuracy against parameters. {about}"
    yield finish(draw_parameters(table), f"{prefix}parameters", caption)
    latencies = sources.latencies(table)
    if all(latencies[row.network] for row in table.rows):
        caption = f"Test accuracy against latency: that of a network is the median of all its measurements. {about}"
        yield finish(draw_latency(table, latencies), f"{prefix}latency", caption)
    if figure := draw_curves(table, sources):
        yield finish(figure, f"{prefix}curves", _trained(table))


def _of_settings(table: DataTable, sources: Origins, prefix: str) -> Iterator[Picture]:
    numbers = count(1)
    pieces, _ = slices(table)
    repeated = len({(len(piece.axes), piece.option) for piece in pieces}) < len(pieces)
    for piece in pieces:
        name = re.sub(r"[^\w.-]", "_", piece.option) + (f"_{next(numbers)}" if repeated else "")
        if len(piece.axes) == 1:
            caption = f"{piece.name}: test accuracy over {piece.axes[0]}; grey is the baseline."
            yield finish(draw_line(piece, table), f"{prefix}line_{name}", caption)
        else:
            caption = f"{piece.name} over {' and '.join(piece.axes)}; hatched: nothing finished."
            failed = failures(piece, sources.sweep)
            yield finish(draw_map(piece, table, failed), f"{prefix}map_{name}", caption)


def _which(table: DataTable) -> str:
    aside = "What costs the same stands side by side."
    if len(chosen(table)) == len(table.rows):
        return f"All rows are drawn. {aside}"
    return f"Of each method and student what validation data chose; the others are grey dots. {aside}"


def _trained(table: DataTable) -> str:
    drawn, students = len(shown(table)), sum(row.role != "teacher" for row in table.rows)
    if drawn == students:
        return "Training of all students."
    return f"Training of {drawn} of {students} rows of students: baselines, then what validation data chose of each method."
