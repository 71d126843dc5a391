"""Compares a network's test predictions with guessing, and detects classes in a wrong order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FEW = 10
"""Test images per class below which renamed classes may fit by chance."""
GAP, MOST_LIKELY = 0.1, 0.5
"""Classes count as reordered only if renaming gains at least `GAP` of accuracy and reaches at least `MOST_LIKELY`."""
SURE, USUAL = 0.001, 0.05
"""Significance levels: for calling classes reordered, and for other differences."""


@dataclass(frozen=True)
class Judgement:
    """A network's predictions on test images; accuracies are between 0 and 1."""

    images: int
    classes: int
    accuracy: float
    majority: float
    """Share of the largest class: the accuracy of always predicting it."""
    luck: float
    """Expected accuracy if the same predictions were assigned to the images at random (Cohen 1960)."""
    renamed: float
    """Accuracy if each class had the name that fits its images best, no two classes the same name."""

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Self:
        """Judges logits [N, K] by labels [N]."""
        (images, classes), predicted = logits.shape, logits.argmax(1)
        by_label, by_prediction = (torch.bincount(of, minlength=classes).double() / images for of in (labels, predicted))
        return cls(
            images,
            classes,
            accuracy=float((predicted == labels).sum()) / images,
            majority=float(by_label.max()),
            luck=float((by_label * by_prediction).sum()),
            renamed=_matched(labels, predicted) / images,
        )

    @property
    def reordered(self) -> bool:
        """Whether the network's classes seem to be in another order than the labels."""
        if self._at_most(self.luck) < SURE:
            return True
        fits_renamed = self.images >= FEW * self.classes and self.renamed >= max(MOST_LIKELY, self.accuracy + GAP)
        beats_majority = binomial_tail(round(self.renamed * self.images), self.images, self.majority) < SURE
        return fits_renamed and beats_majority and self._at_most(self.renamed) < SURE

    @property
    def near_chance(self) -> bool:
        """Whether the accuracy may be that of always predicting the largest class (two-sided exact binomial test)."""
        return 2 * min(self._at_most(self.majority), self._at_least(self.majority)) > USUAL

    def warning(self, who: str) -> str:
        """Returns a warning about a teacher with these predictions, or an empty string."""
        accuracy = f"test accuracy {100 * self.accuracy:.2f} %"
        largest = f"always naming the largest class has {100 * self.majority:.2f} %{self._or_any}"
        if self.reordered:
            return f"{who} seems to have its classes in another order than the labels: {accuracy}, {self.evidence}"
        if self.near_chance:
            return f"{who} is near chance: {accuracy}, and {largest}; what it teaches is noise"
        return f"{who} is worse than a constant answer: {accuracy}, and {largest}" if self.accuracy < self.majority else ""

    @property
    def _or_any(self) -> str:
        """What naming a class at random has, as part of a sentence; empty if all classes have as many images."""
        chance = f"{100 / self.classes:.2f} %"
        return "" if f"{100 * self.majority:.2f} %" == chance else f", naming any at random {chance}"

    @property
    def evidence(self) -> str:
        """The evidence for another order of the classes, as part of a sentence."""
        if self.renamed >= self.accuracy + GAP:
            return f"with its classes renamed {100 * self.renamed:.2f} %"
        return f"less than the {100 * self.luck:.2f} % of randomly permuted answers"

    def _at_most(self, share: float) -> float:
        return binomial_tail(self.images - self._hits, self.images, 1 - share)

    def _at_least(self, share: float) -> float:
        return binomial_tail(self._hits, self.images, share)

    @property
    def _hits(self) -> int:
        return round(self.accuracy * self.images)


def _matched(labels: Tensor, predicted: Tensor) -> int:
    """Counts correct images after matching labels and predictions [N] one to one, the most frequent pair first."""
    pairs, counts = torch.stack([labels, predicted], 1).unique(dim=0, return_counts=True)
    used_labels, used_predictions, correct = set[int](), set[int](), 0
    for row in counts.argsort(descending=True, stable=True).tolist():
        label, prediction = pairs[row].tolist()
        if label not in used_labels and prediction not in used_predictions:
            used_labels.add(label)
            used_predictions.add(prediction)
            correct += int(counts[row])
    return correct


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """Computes the probability of at least `hits` successes in `trials`, each with probability `share`."""
    if hits <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    k = torch.arange(hits, trials + 1, dtype=torch.float64)
    ways = torch.lgamma(torch.tensor(trials + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    p = torch.tensor(share, dtype=torch.float64)
    return min(1.0, float((ways + k * p.log() + (trials - k) * torch.log1p(-p)).exp().sum()))
