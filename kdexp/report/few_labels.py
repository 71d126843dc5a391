"""The remark below tables on labels that only some of the training images have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdexp.text.numbers import count


def label_remark(results: Sequence[Mapping[str, Any]]) -> str:
    """How many labels the learners with these results were trained and chosen with, and how many images of a folder without.

    Empty if all images have their labels. A learner that has all labels does not count.
    """
    labels, folders = _labels(results), _folders(results)
    if labels and folders:
        return f"{labels}, and {folders}."
    return f"{labels}." if labels else f"{folders} next to the training images." if folders else ""


def _folders(results: Sequence[Mapping[str, Any]]) -> str:
    """The folders of images without labels, in words; empty if no learner read any."""
    found = {each["unlabelled"]["folder"]: each["unlabelled"]["images"] for each in results if "unlabelled" in each}
    return ", ".join(f"{count(images, 'unlabelled image')} of {folder}" for folder, images in found.items())


def _labels(results: Sequence[Mapping[str, Any]]) -> str:
    few = [result for result in results if "few_labels" in result]
    if not few:
        return ""
    data, counts = [result["spec"]["data"] for result in few], [result["few_labels"] for result in few]
    labels, images, validation = (
        _range(numbers)
        for numbers in (
            [each["labels"] for each in data],
            [each["training_images"] for each in counts],
            [each["validation_images"] for each in counts],
        )
    )
    seeds = ",".join(str(seed) for seed in sorted({int(each["label_seed"]) for each in data}))
    chosen = f", and of {validation} for validation" if validation != "0" else ""
    return f"Labels of {labels} of {images} training images (dataset.label_seed={seeds}){chosen}"


def _range(numbers: Sequence[float]) -> str:
    least, most = int(min(numbers)), int(max(numbers))
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
