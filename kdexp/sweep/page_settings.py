"""Maps and lines over settings on a sweep's page, and what all its charts have in common."""

from __future__ import annotations

import itertools

from kdexp.page.heatmap import Heat, heatmap
from kdexp.page.html import Html, figure
from kdexp.page.marks import BASELINE
from kdexp.page.plot import Plot
from kdexp.page.scale import Scale
from kdexp.page.symbols import key, legend, stroke
from kdexp.report.table import plus_minus, signed
from kdexp.sweep.axes import headings, written_value
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.slices import LOGARITHMIC, Slice, baselines_beside, failures, is_number
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import marks_of, name_of, seeds

ABREAST_CELLS = 6
"""A map with more columns gets the whole width of the page."""


def over_settings(piece: Slice, table: DataTable, sources: Origins) -> Html:
    """A line over one setting, or a map over two."""
    return _line(piece, table) if len(piece.axes) == 1 else _map(piece, table, failures(piece, sources.sweep))


def _map(piece: Slice, table: DataTable, failed: set[tuple[float, ...]]) -> Html:
    rows = {piece.at(row): row for row in piece.rows}
    across, down = ([*sorted({at[axis] for at in [*rows, *failed]})] for axis in (0, 1))
    names = headings(piece.axes)

    def cell(x: float, y: float) -> Heat | str:
        if (x, y) not in rows:
            return "failed" if (x, y) in failed else "–"
        row = rows[x, y]
        number, below = piece.numbers(row)
        return Heat(piece.worth(row)[0], number, below, told_by(row, table), bool(row.mark))

    lines = [(written_value(y), [cell(x, y) for x in across]) for y in down]
    middle = 0.0 if piece.comparable else min(piece.worth(row)[0] for row in piece.rows)
    drawn = heatmap([written_value(x) for x in across], lines, (names[piece.axes[0]], names[piece.axes[1]]), middle)
    what = "test accuracy − baseline, points" if piece.comparable else "test accuracy, %"
    how = ", mean ± std over seeds" if any(row.n > 1 for row in piece.rows) else ""
    caption = f"{piece.name}: {what}{how}, {seeds(piece.rows)}."
    if any(row.mark for row in piece.rows):
        caption += " Framed: chosen on validation data."
    return figure(caption, drawn, class_="whole" if len(across) > ABREAST_CELLS else "")


def _line(piece: Slice, table: DataTable) -> Html:
    (axis,), marks = piece.axes, marks_of(table)
    rows, mark = sorted(piece.rows, key=piece.at), marks[piece.option]
    places = [float(row.settings[axis]) for row in rows]
    logarithmic = min(places) > 0 and max(places) / min(places) >= LOGARITHMIC
    baselines = baselines_beside(piece, table)
    plot = Plot(Scale.around(places, logarithmic=logarithmic), accuracies([*rows, *baselines]), f"{piece.name} over {axis}")
    keys = [(key(mark, line=True), piece.name)]
    if len(baselines) == 1:
        _level(plot, baselines[0])
        keys.append((key(marks["baseline"], line=True), f"baseline, n = {baselines[0].n}"))
    elif baselines and all(is_number(row.settings.get(axis)) for row in baselines):
        ordered = sorted(baselines, key=lambda row: row.settings[axis])
        plot.line([(row.settings[axis], 100 * row.test_mean) for row in ordered], **stroke(marks["baseline"]))
        for row in ordered:
            plot.mark((row.settings[axis], 100 * row.test_mean), marks["baseline"], tip=told_by(row, table), spread=spread(row))
        keys.append((key(marks["baseline"], line=True), "baseline"))
    plot.line([(place, 100 * row.test_mean) for place, row in zip(places, rows, strict=True)], **stroke(mark))
    for place, row in zip(places, rows, strict=True):
        at = (place, 100 * row.test_mean)
        plot.mark(at, mark, tip=told_by(row, table), spread=spread(row), framed=bool(row.mark))
    ticks = places if len(places) <= 6 and apart(plot.x, places) else None
    name = headings([axis])[axis]
    caption = f"Test accuracy of {piece.name} over {name}, {seeds(rows)}."
    if any(row.mark for row in rows):
        caption += " Circled: chosen on validation data."
    return figure(caption, plot.html(name, axis_title(rows), ticks), legend(keys))


def _level(plot: Plot, baseline: SweepRow) -> None:
    """A baseline that the setting does not change, across the whole chart."""
    mean, std = 100 * baseline.test_mean, spread(baseline)
    ends = (plot.x.low, plot.x.high)
    if std:
        plot.band([(x, mean - std) for x in ends], [(x, mean + std) for x in ends], "b")
    plot.line([(x, mean) for x in ends], **stroke(BASELINE))


def apart(scale: Scale, places: list[float], least: float = 0.1) -> bool:
    """Whether the texts of ticks at these places don't touch."""
    where = [scale.at(place) for place in places]
    return all(b - a > least for a, b in itertools.pairwise(where))


def accuracies(rows: list[SweepRow]) -> Scale:
    """A scale for the accuracies ± std of these rows, in percent."""
    return Scale.around(100 * row.test_mean + sign * spread(row) for row in rows for sign in (-1, 1))


def axis_title(rows: list[SweepRow]) -> str:
    """The title of that axis."""
    return "test accuracy, %" + (", mean ± std over seeds" if any(row.n > 1 for row in rows) else "")


def spread(row: SweepRow) -> float:
    """Standard deviation of a row's accuracy in percent, 0 for one seed."""
    return 100 * (row.test_std or 0.0)


def told_by(row: SweepRow, table: DataTable) -> str:
    """What hovering over a row's mark shows."""
    lines = [name_of(row, table), f"test {plus_minus(row.test_mean, row.test_std)} %, n = {row.n}"]
    if row.difference:
        lines.append(f"vs base {signed(row.difference.mean)}")
    return "\n".join([*lines, f"{row.parameters:,} parameters"])
