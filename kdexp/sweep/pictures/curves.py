"""Accuracy over the epochs, mean and spread over seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdexp.page.curves import Curve
from kdexp.page.marks import Mark
from kdexp.sweep.comparison import DataTable
from kdexp.sweep.epochs import averaged, trained, validated
from kdexp.sweep.origins import Origins
from kdexp.sweep.pictures.style import dashed, label, new_figure
from kdexp.sweep.shown import marks_of, with_curves
from kdexp.sweep.table import title


def draw_curves(table: DataTable, sources: Origins) -> Figure | None:
    """Training accuracy, and validation accuracy where there are validation images; None if nothing was trained."""
    drawn = trained(with_curves(table), sources)
    if not drawn:
        return None
    kinds = ["train", "validation"] if validated(drawn) else ["train"]
    figure = new_figure(4.5 * len(kinds), 3.6 + 0.13 * len(drawn))
    every = marks_of(table)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for row, seeds in drawn:
            name = label(row, table) if kind == "train" else None
            _band(axes, averaged(seeds, f"{kind}_accuracy"), every[row.drawn_as], name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=f"{kind.replace('train', 'training')} accuracy, %")
    figure.suptitle(f"{title(table)}, mean ± std over seeds", fontsize=9)
    figure.legend(loc="outside lower center", ncols=min(3, len(drawn)), fontsize=8)
    return figure


def _band(axes: Axes, curve: Curve, mark: Mark, name: str | None) -> None:
    epochs, mean, std = curve.epochs, np.array(curve.mean), np.array(curve.std)
    style: dict[str, Any] = {"color": mark.colour, "linestyle": dashed(mark), "marker": mark.shape, "mfc": "white", "ms": 4}
    axes.plot(epochs, mean, label=name, linewidth=1.3, markevery=max(1, len(epochs) // 6), **style)
    if std.any():
        axes.fill_between(epochs, mean - std, mean + std, color=mark.colour, alpha=0.18, linewidth=0)
