"""Checks of `class_weights`: one per class, and methods whose cross-entropy they reach."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import node_at, option
from kdexp.errors import Problem


def check_class_weights(
    config: dict[str, Any], classes: int, broken: Collection[str], distilled_teachers: Sequence[str]
) -> Iterator[Problem]:
    """Problems of valid class weights with the number of classes, and with the methods of the rows that are trained."""
    weights = config["class_weights"]
    if weights is None:
        return
    if isinstance(weights, list) and len(weights) != classes:
        fix = "give one weight per class, in the order of the labels, or class_weights=balanced"
        yield Problem("class_weights", f"={weights!r}: {len(weights)} weights for {classes} classes; {fix}")
    rows = ["label_smoothing"] if "label_smoothing" in (config["controls"] or ()) else []
    methods = ("baseline", "distillation", *rows, *(f"{path}.distillation" for path in distilled_teachers))
    for path in methods:
        if path not in broken and not build(node_at(config, path)).weighs_classes:
            fix = "leave class_weights=null" + (", or take it out of controls" if path == "label_smoothing" else "")
            if node_at(config, path).get("tsa"):
                fix += f", or choose {path}.tsa=null"
            name = option(config, path)
            yield Problem("class_weights", f"={weights!r}: {name} has a cross-entropy of its own, which has no weights; {fix}")
