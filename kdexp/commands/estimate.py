"""Estimates how long trainings will take from similar learners in the store."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from kdexp.errors import CorruptEntry
from kdexp.store.stored import RESULT, read_result


class Pace:
    """Median seconds per image and epoch of the networks in a store.

    Learners are similar if network, image shape, classes, batch size and precision agree; augmentation is ignored.
    """

    def __init__(self, root: Path):
        paces = defaultdict(list)
        for path in root.glob(f"*/{RESULT}"):
            try:
                result = read_result(path.parent).result
            except CorruptEntry:
                continue  # reported by whatever needs the learner
            if images := result["train_images"] * len(result["history"]):
                paces[_kind(result["spec"])].append(result["train_seconds"] / images)
        self._median = {kind: statistics.median(seconds) for kind, seconds in paces.items()}

    def seconds(self, spec: dict[str, Any], images: int) -> float | None:
        """Seconds that training the learner of a spec may take on so many images; None if the store has nothing similar."""
        pace = self._median.get(_kind(spec))
        return None if pace is None else pace * images * spec["epochs"]


def _kind(spec: dict[str, Any]) -> str:
    size = [spec["data"][name] for name in ("num_classes", "in_channels", "image_size")]
    return json.dumps([spec["model"], size, spec["batch_size"], spec["precision"]], sort_keys=True)
