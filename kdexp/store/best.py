"""Which learners `kdexp-store prune --keep-best` keeps: the best of each data set and network, and what they depend on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]
SPLIT = ("fingerprint", "val_fraction", "split_seed", "validation_images")
"""Entries of a spec's data that decide which images validate."""


def reasons_to_keep_best(results: Mapping[str, Result]) -> dict[str, str]:
    """Why learners are kept, by key; `results` are those of all finished learners.

    Validation accuracies (after the last epoch) are compared within a data set, its validation images and a network. Where no
    learner has one, all are kept.
    """
    groups = defaultdict(list)
    for key, result in results.items():
        groups[_comparable(result)].append(key)
    kept: dict[str, str] = {}
    for keys in groups.values():
        known = {key: accuracy for key in keys if (accuracy := _validation(results[key])) is not None}
        if known:
            best = max(known, key=lambda key: known[key])
            about = f"{results[best]['model']} on {results[best]['dataset']}"
            kept[best] = f"the best {about}, validation {100 * known[best]:.2f} %"
        else:
            kept |= dict.fromkeys(keys, "no validation accuracy says whether it is the best")
    return kept | _sources(list(kept), results, kept)


def _sources(waiting: list[str], results: Mapping[str, Result], kept: Mapping[str, str]) -> dict[str, str]:
    """The learners that taught those, or that they are made of, recursively."""
    found: dict[str, str] = {}
    while waiting:
        key = waiting.pop()
        spec = results[key]["spec"]
        for source in filter(None, (spec["teacher"], *spec.get("members", ()), spec.get("start"))):
            if source in results and source not in kept and source not in found:
                found[source] = f"{key} depends on it"
                waiting.append(source)
    return found


def _comparable(result: Result) -> str:
    data = result["spec"]["data"]
    return json.dumps([result["dataset"], result["model"], [data.get(name) for name in SPLIT]])


def _validation(result: Result) -> float | None:
    """The validation accuracy after the last epoch; None without validation images or without training."""
    return result["history"][-1].get("validation_accuracy") if result["history"] else None
