"""Estimates from similar learners in the store: how long a training takes, and whether it may be stored already."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdexp.errors import CorruptEntry
from kdexp.store.spec import LearnerSpec, alike
from kdexp.store.stored import RESULT, read_result


class Pace:
    """Median seconds per image and epoch of the networks in a store.

    Learners are similar if network, image shape, classes, batch size and precision agree; augmentation is ignored.
    """

    def __init__(self, root: Path):
        paces = defaultdict(list)
        for result in _results(root):
            shown = result.get("few_labels", {}).get("training_images", result["train_images"])
            if images := shown * len(result["history"]):
                paces[_kind(result["spec"])].append(result["train_seconds"] / images)
        self._median = {kind: statistics.median(seconds) for kind, seconds in paces.items()}

    def seconds(self, spec: dict[str, Any], images: int) -> float | None:
        """Seconds that training the learner of a spec may take on so many images; None if the store has nothing similar."""
        pace = self._median.get(_kind(spec))
        return None if pace is None else pace * images * spec["epochs"]


class Lookalikes:
    """Finds stored learners whose specs agree with another one's in everything but the images."""

    def __init__(self, root: Path):
        self._known = {_without_images(result["spec"]) for result in _results(root)}

    def has(self, spec: LearnerSpec) -> bool:
        """Whether the store has a learner that may be the one with this spec, if its images are those."""
        return _without_images(spec.values()) in self._known


OF_IMAGES = ("fingerprint", "mean", "std")
DEPENDENT = ("teacher", "members", "start", "format", "sources", "unlabelled")
"""Parts of a spec that are keys of other learners or hashes, which depend on the images, too, or that `identity` adds."""


def _without_images(spec: Mapping[str, Any]) -> str:
    data = {name: value for name, value in spec["data"].items() if name not in OF_IMAGES}
    rest = {name: value for name, value in spec.items() if name not in DEPENDENT}
    return json.dumps(alike({**rest, "data": data}), sort_keys=True)


def _results(root: Path) -> Iterator[dict[str, Any]]:
    """The results of all learners in a store."""
    for path in root.glob(f"*/{RESULT}"):
        with suppress(CorruptEntry):  # reported by whatever needs the learner
            yield read_result(path.parent).result


def _kind(spec: dict[str, Any]) -> str:
    size = [spec["data"][name] for name in ("num_classes", "in_channels", "image_size")]
    return json.dumps([spec["model"], size, spec["batch_size"], spec["precision"]], sort_keys=True)
