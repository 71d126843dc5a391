"""Remarks below a run's table on classes of unequal size and on class weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdexp.report.table import percent

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.report.rows import Row

BALANCED = (
    "balanced: CE is PyTorch's mean over the batch, weighted by N / (C n) for a class with n of N training images of C classes."
)
WEIGHTED = "weighted: CE is PyTorch's mean over the batch, weighted by class_weights."


def imbalance_remarks(rows: Sequence[Row], experiment: Experiment) -> Iterator[str]:
    """What a reader must know to read accuracies on imbalanced test images, and how the loss weighs the classes."""
    told = [row for row in rows if row.balanced_accuracy is not None]
    if told:
        counts = experiment.data.test.labels.bincount(minlength=experiment.shape.num_classes).tolist()
        names = experiment.dataset.classes or [str(number) for number in range(len(counts))]
        yield imbalance_words(counts, names)
        yield f"Least accurate class: {', '.join(_least(row, counts, names) for row in told)}."
    if any(experiment.spec(row.role).class_weights for row in rows):
        yield BALANCED if experiment.settings.class_weights == "balanced" else WEIGHTED


def imbalance_words(counts: Sequence[int], names: Sequence[str]) -> str:
    """Says how test images are spread over the classes, and what guessing reaches."""
    present = [count for count in counts if count]
    largest = counts.index(max(counts))
    share = percent(max(counts) / sum(counts))
    constant = f"always naming the largest, {names[largest]}, has {share} %"
    balanced = f"balanced %, the mean accuracy of the classes, where that has {percent(1 / len(present))} %"
    return f"Classes have {min(present)} to {max(present)} test images: {constant}; see {balanced}."


def _least(row: Row, counts: Sequence[int], names: Sequence[str]) -> str:
    found = [(share, number) for number, share in enumerate(row.class_accuracies or ()) if share is not None]
    share, number = min(found)
    return f"{row.role} {percent(share)} % of {counts[number]} ({names[number]})"
