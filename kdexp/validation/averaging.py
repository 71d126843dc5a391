"""Checks of `averaging`: methods that need a moving average have one, those that deploy more than the student have none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import node_at, option
from kdexp.errors import Problem


def check_averaging(config: dict[str, Any], broken: Collection[str], distilled_teachers: Sequence[str]) -> Iterator[Problem]:
    """Problems of the moving average of students' weights with the methods of the rows that are trained."""
    averages = bool(build(config["averaging"]).describe())
    rows = ["label_smoothing"] if "label_smoothing" in (config["controls"] or ()) else []
    for path in ("baseline", "distillation", *rows):
        if path in broken:
            continue
        distiller, name = build(node_at(config, path)), option(config, path)
        if distiller.needs_average and not averages:
            yield Problem(path, f"{name} learns from the moving average of the student's weights; add averaging=ema")
        if averages and distiller.deploys_more:
            sentence = f"{name} deploys more than the student's own network, of which there is no average; averaging=none"
            yield Problem("averaging", f"={config['choices']['averaging']}: {sentence}")
    for path in (f"{path}.distillation" for path in distilled_teachers):
        if path not in broken and build(node_at(config, path)).needs_average:
            yield Problem(
                path, "learns from a moving average of the weights, and only students have one; choose another method"
            )
