"""Where a result comes from, as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def dataset_name(config: Mapping[str, Any]) -> str:
    """The option of a run's data set; an image folder's own name before it."""
    name, folder = str(config["choices"]["dataset"]), Path(str(config["dataset"].get("root", ""))).name
    return f"{folder} ({name})" if name == "image_folder" and folder else name


def versions(provenance: dict[str, Any]) -> str:
    """Versions and hardware of a training, on one line."""
    packages = ", ".join(f"{name} {provenance['versions'][name]}" for name in ("kdexp", "torch"))
    git = provenance["git"]
    commit = f", commit {git['commit'][:10]}{' with changes' if git['changed'] else ''}" if git else ""
    return f"{packages}, Python {provenance['python']} on {provenance['device']}{commit}"


def outcome(name: str, model: str, reached: str, points: float) -> str:
    """The beginning of a sentence on a distilled student: its accuracy, and its difference to the baseline in points."""
    accuracy = f"Distilled with {name}, {model} reaches {reached} % on the test images"
    if not round(points, 2):
        return f"{accuracy}, as much as its baseline, the same student without distillation"
    way = "more" if points > 0 else "less"
    return f"{accuracy}, {abs(points):.2f} points {way} than its baseline, the same student without distillation"


ONE_SEED = "One seed says nothing about other seeds"
REPEAT = "n = 1: a single seed; add -m seed=0,1,2,3,4 to the command to run five."
"""Remark below a table of a single seed."""

REPEAT_SEARCH = "n = 1: a single seed; leave search.fresh_seeds out of the command to run five."
"""Remark below a search's table of a single seed."""
