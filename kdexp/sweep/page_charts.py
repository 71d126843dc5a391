"""The charts of a sweep's page: what its pictures show, as SVG that follows the page's colours."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median

from kdexp.page.curves import Trained, draw_curves
from kdexp.page.differences import draw_differences
from kdexp.page.html import Html, figure, tag
from kdexp.page.plot import Plot
from kdexp.page.scale import Scale
from kdexp.page.symbols import key, legend
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.epochs import averaged, trained, validated
from kdexp.sweep.estimates import estimates, explained
from kdexp.sweep.origins import Origins
from kdexp.sweep.page_settings import accuracies, apart, axis_title, over_settings, spread, told_by
from kdexp.sweep.pictures.slices import slices
from kdexp.sweep.row import SweepRow
from kdexp.sweep.shown import chosen, front, marks_of, name_of, together, with_curves

BESIDE, ABREAST = 12.0, 300.0
"""Pixels between marks of equal cost at most, and from the first to the last mark of all costs."""


def charts(table: DataTable, sources: Origins) -> Iterator[Html]:
    """Differences, then maps and lines over settings, then accuracy against cost, then training."""
    if table.compared:
        yield draw_differences(estimates(table), explained(table))
    pieces, refused = slices(table)
    drawn = [over_settings(piece, table, sources) for piece in pieces]
    drawn.append(_cost(table, lambda row: row.parameters, "parameters", "Test accuracy against parameters."))
    latencies = sources.latencies(table)
    if all(latencies[row.network] for row in table.rows):
        told = "Test accuracy against latency, the median of all measurements of a network."
        drawn.append(_cost(table, lambda row: median(latencies[row.network]), "ms for one image", told))
    drawn += _training(table, sources)
    yield tag("div", *drawn, class_="charts")
    yield from (tag("p", sentence, class_="soft") for sentence in refused)


def _cost(table: DataTable, cost: Callable[[SweepRow], float], unit: str, told: str) -> Html:
    """Accuracy against a cost, with the Pareto front of the chosen rows; the others are dots."""
    rows, marks = chosen(table), marks_of(table)
    others = [row for row in table.rows if row not in rows]
    x = Scale.around((cost(row) for row in table.rows), logarithmic=True, room=0.25)
    plot = Plot(x, accuracies(table.rows), told)
    for row in others:
        plot.dot((cost(row), 100 * row.test_mean), told_by(row, table))
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
        plot.mark(point, marks[row.drawn_as], tip=told_by(row, table), spread=spread(row), aside=aside)
    alike = defaultdict[str, list[SweepRow]](list)
    for row in rows:
        alike[row.drawn_as].append(row)
    keys = [(key(marks[name]), together(same, table)) for name, same in alike.items()]
    caption = [
        told,
        "Dashed: Pareto front, the best accuracy up to each cost." if has_front else "",
        "Marks of equal cost are shifted sideways.",
    ]
    caption += [f"Dots: {len(others)} that validation data did not choose."] if others else []
    ticks = costs if len(costs) <= 3 and apart(x, costs, 0.25) else None
    drawn = plot.html(unit, axis_title(rows), ticks, lambda value: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}")
    return figure(" ".join(filter(None, caption)), drawn, legend(keys))


def _training(table: DataTable, sources: Origins) -> Iterator[Html]:
    """Accuracy over the epochs, one chart for each student."""
    drawn, marks = trained(with_curves(table), sources), marks_of(table)
    kind, told = ("validation_accuracy", "validation accuracy") if validated(drawn) else ("train_accuracy", "training accuracy")
    groups = defaultdict[str, list[Trained]](list)
    for row, histories in drawn:
        groups[row.model].append(Trained(name_of(row, table), marks[row.drawn_as], averaged(histories, kind)))
    yield from (draw_curves(learners, told, f"of {model}") for model, learners in groups.items())
