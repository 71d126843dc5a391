"""The charts of a sweep's page: what its pictures show, as SVG that follows the page's colours."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from statistics import median

from kdexp.page.curves import Trained, draw_curves
from kdexp.page.differences import Estimate, draw_differences
from kdexp.page.heatmap import Heat, heatmap
from kdexp.page.html import Html, figure, tag
from kdexp.page.plot import Plot
from kdexp.page.scale import Scale
from kdexp.page.symbols import key, legend
from kdexp.report.table import plus_minus, signed
from kdexp.sweep.axes import headings, written_value
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.epochs import averaged, trained, validated
from kdexp.sweep.origins import Origins
from kdexp.sweep.page_rows import seeds_of
from kdexp.sweep.pictures.slices import LOGARITHMIC, Slice, baselines_beside, failures, is_number, slices
from kdexp.sweep.remarks import span
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import chosen, front, marks_of, name_of, seeds, with_curves

BESIDE, ABREAST = 12.0, 300.0
"""Pixels between marks of equal cost at most, and from the first to the last mark of all costs."""
ABREAST_CELLS = 6
"""A map with more columns gets the whole width of the page."""


def charts(table: DataTable, sources: Origins) -> Iterator[Html]:
    """Differences, then maps and lines over settings, then accuracy against cost, then training."""
    if table.compared:
        yield differences(table)
    pieces, refused = slices(table)
    drawn = [_over_settings(piece, table, sources) for piece in pieces]
    drawn.append(_cost(table, lambda row: row.parameters, "parameters", "Test accuracy against parameters."))
    latencies = sources.latencies(table)
    if all(latencies[row.model, row.parameters] for row in table.rows):
        told = "Test accuracy against latency, the median of all measurements of a network."
        drawn.append(_cost(table, lambda row: median(latencies[row.model, row.parameters]), "ms for one image", told))
    drawn += _training(table, sources)
    yield tag("div", *drawn, class_="charts")
    yield from (tag("p", sentence, class_="soft") for sentence in refused)


def differences(table: DataTable) -> Html:
    """Every row with an interval."""
    marks = marks_of(table)
    estimates = []
    for row in table.compared:
        difference = row.difference
        assert difference is not None
        both, inner = difference.over_seeds_and_images, difference.over_seeds
        outer = both or inner
        estimates.append(
            Estimate(
                name_of(row, table),
                marks[row.drawn_as],
                difference.mean,
                signed(difference.mean),
                span(outer) if outer else "",
                seeds_of(row)["vs base"],
                difference.points,
                (outer.low, outer.high) if outer else None,
                (inner.low, inner.high) if inner else None,
            )
        )
    return draw_differences(estimates, _explained(table))


def _explained(table: DataTable) -> str:
    found = [row.difference for row in table.compared if row.difference]
    parts = ["Test accuracy minus that of the baseline with the same seed: mean"]
    if any(len(each.points) > 1 for each in found):
        parts.append("single seeds as small dots below it")
    levels = sorted({100 * each.level for each in found if each.level})
    level = " and ".join(f"{value:.4g} %" for value in levels)
    if any(each.over_seeds and each.over_seeds_and_images for each in found):
        parts.append(f"{level} intervals over seeds and test images (thin) and over seeds alone (thick)")
    elif any(each.over_seeds or each.over_seeds_and_images for each in found):
        over = "seeds" if any(each.over_seeds for each in found) else "test images"
        parts.append(f"{level} intervals over {over}")
    joint = f" They hold together with 95 % (Bonferroni over {len(found)})." if len(found) > 1 else ""
    return f"{', '.join(parts)}. An interval that holds 0 is within noise.{joint}"


def _over_settings(piece: Slice, table: DataTable, sources: Origins) -> Html:
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
        return Heat(piece.worth(row)[0], number, below, _told(row, table), bool(row.mark))

    lines = [(written_value(y), [cell(x, y) for x in across]) for y in down]
    middle = 0.0 if piece.comparable else min(piece.worth(row)[0] for row in piece.rows)
    drawn = heatmap([written_value(x) for x in across], lines, (names[piece.axes[0]], names[piece.axes[1]]), middle)
    what = "test accuracy − baseline, points" if piece.comparable else "test accuracy, %"
    spread = ", mean ± std over seeds" if any(row.n > 1 for row in piece.rows) else ""
    caption = f"{piece.name}: {what}{spread}, {seeds(piece.rows)}."
    if any(row.mark for row in piece.rows):
        caption += " Framed: chosen on validation data."
    return figure(caption, drawn, class_="whole" if len(across) > ABREAST_CELLS else "")


def _line(piece: Slice, table: DataTable) -> Html:
    (axis,), marks = piece.axes, marks_of(table)
    rows, mark = sorted(piece.rows, key=piece.at), marks[piece.option]
    places = [float(row.settings[axis]) for row in rows]
    logarithmic = min(places) > 0 and max(places) / min(places) >= LOGARITHMIC
    baselines = baselines_beside(piece, table)
    plot = Plot(Scale.around(places, logarithmic=logarithmic), _accuracies([*rows, *baselines]), f"{piece.name} over {axis}")
    keys = [(key(mark, line=True), piece.name)]
    if len(baselines) == 1:
        _level(plot, baselines[0])
        keys.append((key(marks["baseline"], line=True), f"baseline, n = {baselines[0].n}"))
    elif baselines and all(is_number(row.settings.get(axis)) for row in baselines):
        ordered = sorted(baselines, key=lambda row: row.settings[axis])
        plot.line([(row.settings[axis], 100 * row.test_mean) for row in ordered], class_="curve b", stroke_dasharray="16 4")
        for row in ordered:
            plot.mark((row.settings[axis], 100 * row.test_mean), marks["baseline"], tip=_told(row, table), spread=_std(row))
        keys.append((key(marks["baseline"], line=True), "baseline"))
    plot.line([(place, 100 * row.test_mean) for place, row in zip(places, rows, strict=True)], class_=f"curve {mark.name}")
    for place, row in zip(places, rows, strict=True):
        at = (place, 100 * row.test_mean)
        plot.mark(at, mark, tip=_told(row, table), spread=_std(row), framed=bool(row.mark))
    ticks = places if len(places) <= 6 and _apart(plot.x, places) else None
    name = headings([axis])[axis]
    caption = f"{piece.name} over {name}, {seeds(rows)}."
    if any(row.mark for row in rows):
        caption += " Circled: chosen on validation data."
    return figure(caption, plot.html(name, _axis_title(rows), ticks), legend(keys))


def _level(plot: Plot, baseline: SweepRow) -> None:
    """A baseline that the setting does not change, across the whole chart."""
    mean, std = 100 * baseline.test_mean, _std(baseline)
    ends = (plot.x.low, plot.x.high)
    if std:
        plot.band([(x, mean - std) for x in ends], [(x, mean + std) for x in ends], "b")
    plot.line([(x, mean) for x in ends], class_="curve b", stroke_dasharray="16 4")


def _apart(scale: Scale, places: list[float], least: float = 0.1) -> bool:
    """Whether the texts of ticks at these places don't touch."""
    where = [scale.at(place) for place in places]
    return all(b - a > least for a, b in itertools.pairwise(where))


def _cost(table: DataTable, cost: Callable[[SweepRow], float], unit: str, told: str) -> Html:
    """Accuracy against a cost, with the Pareto front of the chosen rows; the others are dots."""
    rows, marks = chosen(table), marks_of(table)
    others = [row for row in table.rows if row not in rows]
    x = Scale.around((cost(row) for row in table.rows), logarithmic=True, room=0.15)
    plot = Plot(x, _accuracies(table.rows), told)
    for row in others:
        plot.dot((cost(row), 100 * row.test_mean), _told(row, table))
    points = [(cost(row), 100 * row.test_mean) for row in rows]
    best = [points[index] for index in front(points)]
    if has_front := len({place for place, _ in best}) > 1:
        corners = [corner for a, b in itertools.pairwise(best) for corner in (a, (b[0], a[1]))]
        plot.line([*corners, best[-1]], class_="front")
    students = list(dict.fromkeys(row.drawn_as for row in rows if row.role != "teacher"))
    costs = sorted({cost(row) for row in table.rows})
    step = min(BESIDE, ABREAST / (len(costs) + 1) / max(1, len(students) - 1))
    for row, point in zip(rows, points, strict=True):
        aside = step * (students.index(row.drawn_as) - (len(students) - 1) / 2) if row.role != "teacher" else 0.0
        plot.mark(point, marks[row.drawn_as], tip=_told(row, table), spread=_std(row), aside=aside)
    counts = Counter(row.drawn_as for row in rows)
    keys = [(key(marks[name]), name if count == 1 else f"{name}, {count} rows") for name, count in counts.items()]
    caption = [told, "Dashed: Pareto front." if has_front else "", "What costs the same stands side by side."]
    caption += [f"Dots: {len(others)} that validation data did not choose."] if others else []
    ticks = costs if len(costs) <= 3 and _apart(x, costs, 0.25) else None
    drawn = plot.html(unit, _axis_title(rows), ticks, lambda value: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    return figure(" ".join(filter(None, caption)), drawn, legend(keys))


def _training(table: DataTable, sources: Origins) -> Iterator[Html]:
    """Accuracy over the epochs, one chart for each student."""
    drawn, marks = trained(with_curves(table), sources), marks_of(table)
    kind, told = ("validation_accuracy", "validation accuracy") if validated(drawn) else ("train_accuracy", "training accuracy")
    groups = defaultdict[str, list[Trained]](list)
    for row, histories in drawn:
        groups[row.model].append(Trained(name_of(row, table), marks[row.drawn_as], averaged(histories, kind)))
    yield from (draw_curves(learners, told, f"of {model}") for model, learners in groups.items())


def _accuracies(rows: list[SweepRow]) -> Scale:
    return Scale.around(100 * row.test_mean + sign * _std(row) for row in rows for sign in (-1, 1))


def _axis_title(rows: list[SweepRow]) -> str:
    return "test accuracy, %" + (", mean ± std over seeds" if any(row.n > 1 for row in rows) else "")


def _std(row: SweepRow) -> float:
    return 100 * (row.test_std or 0.0)


def _told(row: SweepRow, table: DataTable) -> str:
    """What hovering over a row's mark shows."""
    lines = [name_of(row, table), f"test {plus_minus(row.test_mean, row.test_std)} %, n = {row.n}"]
    if row.difference:
        lines.append(f"vs base {signed(row.difference.mean)}")
    return "\n".join([*lines, f"{row.parameters:,} parameters"])
