"""How long trainings will take, from what the store knows of learners of the same kind."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from kdexp.errors import CorruptEntry
from kdexp.store.stored import RESULT, read_result


class Pace:
    """Seconds per image and epoch of the networks that a store has seen trained; those without augmentation are no slower."""

    def __init__(self, root: Path):
        seen = defaultdict(list)
        for path in root.glob(f"*/{RESULT}"):
            try:
                told = read_result(path.parent).result
            except CorruptEntry:
                continue  # it tells nothing, and is named where it is needed
            if looks := told["train_images"] * len(told["history"]):
                seen[_kind(told["spec"])].append(told["train_seconds"] / looks)
        self._known = {kind: statistics.median(paces) for kind, paces in seen.items()}

    def seconds(self, spec: dict[str, Any], images: int) -> float | None:
        """Of the learner's own steps, or None if its like was never trained here."""
        pace = self._known.get(_kind(spec))
        return None if pace is None else pace * images * spec["epochs"]


def _kind(spec: dict[str, Any]) -> str:
    size = [spec["data"][name] for name in ("num_classes", "in_channels", "image_size")]
    return json.dumps([spec["model"], size, spec["batch_size"], spec["precision"]], sort_keys=True)
