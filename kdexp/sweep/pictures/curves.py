"""Loss and accuracy over the epochs, mean and spread over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdexp.configuration.roles import PARTS
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.style import COLOURS, DASHES, chosen, label, logarithmic, new_figure
from kdexp.sweep.row import SweepRow
from kdexp.sweep.table import title

MOST = 8

Histories = list[list[dict[str, Any]]]
"""Epochs of each seed."""


def shown(table: DataTable) -> list[SweepRow]:
    """The students whose curves are drawn: by role, best on validation data first, controls last."""
    order = list(PARTS)
    students = [row for row in chosen(table) if row.role != "teacher"]
    students.sort(key=lambda row: (order.index(row.role), not row.mark, -(row.validation_mean or 0.0)))
    return students[:MOST]


def draw_curves(table: DataTable, sources: Origins) -> Figure | None:
    """Objective and validation accuracy; training accuracy without validation data; None if nothing was trained."""
    histories = [(row, [sources.history(key) for key in row.keys]) for row in shown(table)]
    trained = [(row, seeds) for row, seeds in histories if seeds[0] and len({len(history) for history in seeds}) == 1]
    if not trained:
        return None
    validated = all("validation_accuracy" in epoch for _, seeds in trained for history in seeds for epoch in history)
    accuracy = "validation_accuracy" if validated else "train_accuracy"
    figure = new_figure(9, 3.6 + 0.13 * len(trained))
    losses, accuracies = figure.subplots(1, 2)
    losses.set_yscale("log", nonpositive="clip")
    logarithmic(losses.yaxis)
    for number, (row, seeds) in enumerate(trained):
        _band(losses, seeds, "loss", 1, number, label(row, table))
        _band(accuracies, seeds, accuracy, 100, number, None)
    for axes in (losses, accuracies):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set(xlabel="epoch", ylabel="training loss (each method's own objective)")
    accuracies.set(xlabel="epoch", ylabel=f"{'validation' if validated else 'training'} accuracy, %")
    figure.suptitle(f"{title(table)}, mean ± std over seeds", fontsize=9)
    figure.legend(loc="outside lower center", ncols=min(3, len(trained)), fontsize=8)
    return figure


def _band(axes: Axes, seeds: Histories, name: str, unit: float, number: int, legend: str | None) -> None:
    values = np.array([[unit * epoch[name] for epoch in history] for history in seeds])
    epochs, mean = [epoch["epoch"] for epoch in seeds[0]], values.mean(0)
    style: dict[str, Any] = {"color": COLOURS[number], "linestyle": DASHES[number], "linewidth": 1.3}
    axes.plot(epochs, mean, label=legend, marker="." if len(epochs) == 1 else "", **style)
    if len(seeds) > 1:
        std = values.std(0, ddof=1)
        axes.fill_between(epochs, mean - std, mean + std, color=COLOURS[number], alpha=0.18, linewidth=0)
