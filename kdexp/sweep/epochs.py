"""Numbers of every epoch, averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdexp.page.curves import Curve
from kdexp.sweep.origins import Origins
from kdexp.sweep.row import SweepRow

History = list[dict[str, Any]]


def trained(rows: Sequence[SweepRow], sources: Origins) -> list[tuple[SweepRow, list[History]]]:
    """The rows that were trained, equally long with every seed, and the epochs of each seed."""
    found = [(row, [sources.history(key) for key in row.keys]) for row in rows]
    return [(row, seeds) for row, seeds in found if seeds[0] and len({len(history) for history in seeds}) == 1]


def validated(histories: Sequence[tuple[SweepRow, list[History]]]) -> bool:
    """Whether every epoch has a validation accuracy."""
    return all("validation_accuracy" in epoch for _, seeds in histories for history in seeds for epoch in history)


def averaged(seeds: Sequence[History], name: str) -> Curve:
    """One accuracy over the epochs, in percent."""
    values = 100 * np.array([[epoch[name] for epoch in history] for history in seeds])
    std = values.std(0, ddof=1) if len(seeds) > 1 else np.zeros(values.shape[1])
    return Curve([epoch["epoch"] for epoch in seeds[0]], values.mean(0).tolist(), std.tolist())
