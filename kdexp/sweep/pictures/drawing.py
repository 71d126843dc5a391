"""Draws all pictures of a comparison, in the order of the page. Imports matplotlib."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from matplotlib import rc_context
from matplotlib.figure import Figure

from kdexp.sweep.comparison import Comparison, DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.cost import draw_latency, draw_parameters
from kdexp.sweep.pictures.curves import draw_curves
from kdexp.sweep.pictures.differences import caption as caption_of_differences
from kdexp.sweep.pictures.differences import draw_differences
from kdexp.sweep.pictures.lines import draw_line
from kdexp.sweep.pictures.maps import draw_map
from kdexp.sweep.pictures.slices import failures, slices
from kdexp.sweep.pictures.style import SETTINGS, Picture, finish
from kdexp.sweep.shown import chosen, with_curves


def draw_all(comparison: Comparison, sources: Origins) -> list[list[Picture]]:
    """The pictures of every table; with several tables their names begin with its number."""
    with rc_context(SETTINGS):
        return [[finish(*each) for each in drawn] for drawn in draw_figures(comparison, sources)]


def draw_figures(comparison: Comparison, sources: Origins) -> Iterator[Iterator[tuple[Figure, str, str]]]:
    """The figures of every table with their names and captions; to be drawn and finished within `SETTINGS`."""
    several = len(comparison.tables) > 1
    for number, table in enumerate(comparison.tables, 1):
        yield _of_table(table, sources, f"{number}_" if several else "")


def _of_table(table: DataTable, sources: Origins, prefix: str) -> Iterator[tuple[Figure, str, str]]:
    if table.compared:
        yield draw_differences(table), f"{prefix}differences", caption_of_differences(table)
    yield from _of_settings(table, sources, prefix)
    about = _which(table)
    caption = f"Test accuracy against parameters. {about}"
    yield draw_parameters(table), f"{prefix}parameters", caption
    latencies = sources.latencies(table)
    if all(latencies[row.network] for row in table.rows):
        caption = f"Test accuracy against latency: that of a network is the median of all its measurements. {about}"
        yield draw_latency(table, latencies), f"{prefix}latency", caption
    if figure := draw_curves(table, sources):
        yield figure, f"{prefix}curves", _trained(table)


def _of_settings(table: DataTable, sources: Origins, prefix: str) -> Iterator[tuple[Figure, str, str]]:
    numbers = count(1)
    pieces, _ = slices(table)
    repeated = len({(len(piece.axes), piece.option) for piece in pieces}) < len(pieces)
    for piece in pieces:
        name = re.sub(r"[^\w.-]", "_", piece.option) + (f"_{next(numbers)}" if repeated else "")
        if len(piece.axes) == 1:
            caption = f"{piece.name}: test accuracy over {piece.axes[0]}; grey is the baseline."
            yield draw_line(piece, table), f"{prefix}line_{name}", caption
        else:
            caption = f"{piece.name} over {' and '.join(piece.axes)}; hatched: nothing finished."
            failed = failures(piece, sources.sweep)
            yield draw_map(piece, table, failed), f"{prefix}map_{name}", caption


def _which(table: DataTable) -> str:
    aside = "Equal-cost markers are shifted sideways."
    if len(chosen(table)) == len(table.rows):
        return f"All rows are drawn. {aside}"
    return f"The best configuration of each method and student on validation data; all others are grey dots. {aside}"


def _trained(table: DataTable) -> str:
    drawn, students = len(with_curves(table)), sum(row.role != "teacher" for row in table.rows)
    if drawn == students:
        return "Training curves of all students."
    return f"Training curves of {drawn} of {students} students: baselines, then the best of each method on validation data."
