"""Accuracy over the epochs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from kdexp.page.html import Html, figure
from kdexp.page.marks import Mark
from kdexp.page.plot import Plot
from kdexp.page.scale import Scale
from kdexp.page.symbols import key, legend

SPANS = 200
"""Parts of a chart at most that show their numbers on hover."""
MARKS = 6
"""Marks along a curve, about."""


class Curve(NamedTuple):
    """Mean and standard deviation of an accuracy in percent by epoch; the standard deviations of a single run are 0."""

    epochs: list[int]
    mean: list[float]
    std: list[float]


class Trained(NamedTuple):
    """A learner in a chart of curves."""

    name: str
    mark: Mark
    curve: Curve


def draw_curves(learners: Sequence[Trained], what: str, whose: str) -> Html:
    """One chart; `what` is the accuracy and `whose` tells the learners. Several of one method differ in their dashes."""
    values = [
        mean + sign * std
        for _, _, curve in learners
        for mean, std in zip(curve.mean, curve.std, strict=True)
        for sign in (-1, 1)
    ]
    epochs = sorted({epoch for _, _, curve in learners for epoch in curve.epochs})
    told = f"{what[0].upper()}{what[1:]} {whose} over the epochs"
    plot, used, keys = Plot(Scale.around(epochs, room=0.02), Scale.around(values), told), Counter[Mark](), []
    for name, mark, curve in learners:
        dashes = (1 + used[mark], 2) if used[mark] else mark.dashes
        used[mark] += 1
        if any(curve.std):
            lower = [(epoch, mean - std) for epoch, mean, std in zip(*curve, strict=True)]
            upper = [(epoch, mean + std) for epoch, mean, std in zip(*curve, strict=True)]
            plot.band(lower, upper, mark.name)
        points = list(zip(curve.epochs, curve.mean, strict=True))
        plot.curve(points, mark, dashes, every=max(1, math.ceil(len(points) / MARKS)))
        keys.append((key(mark, line=True, dashes=dashes), name))
    step = -(-len(epochs) // SPANS)
    for epoch in epochs[::step]:
        plot.column(epoch - step / 2, epoch + step / 2, _at(epoch, learners))
    spread = ", mean ± std over seeds" if any(any(curve.std) for _, _, curve in learners) else ""
    ticks = [tick for tick in plot.x.ticks() if tick == int(tick) and tick >= 1]
    return figure(f"{told}{spread}.", plot.html("epoch", f"{what}, %", ticks), legend(keys))


def _at(epoch: int, learners: Sequence[Trained]) -> str:
    lines = [f"epoch {epoch}"]
    for name, _, (epochs, mean, std) in learners:
        if epoch in epochs:
            number = epochs.index(epoch)
            lines.append(f"{name}: {mean[number]:.2f}" + (f" ± {std[number]:.2f}" if any(std) else "") + " %")
    return "\n".join(lines)
