"""What a network's test answers are worth, held against guessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FEW = 10
"""Test images per class below which a renaming of classes fits by luck."""
GAP, MOST_LIKELY = 0.1, 0.5
"""So much more, and at least so much, a network must have right under other names for its classes to be called reordered."""
SURE, USUAL = 0.001, 0.05
"""Probabilities below which something is not luck: for an accusation, and for a difference."""


@dataclass(frozen=True)
class Judgement:
    """A network's answers to test images; all shares are of 1."""

    images: int
    classes: int
    accuracy: float
    majority: float
    """The share of the largest class: the accuracy of always naming it."""
    luck: float
    """The accuracy that the same answers would have on average if they were dealt to the images at random (Cohen 1960)."""
    renamed: float
    """The accuracy if each class had the name that fits its images best, no two classes the same name."""

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Self:
        """That of logits [N, K] for labels [N]."""
        (images, classes), answers = logits.shape, logits.argmax(1)
        by_label, by_answer = (torch.bincount(given, minlength=classes).double() / images for given in (labels, answers))
        return cls(
            images,
            classes,
            accuracy=float((answers == labels).sum()) / images,
            majority=float(by_label.max()),
            luck=float((by_label * by_answer).sum()),
            renamed=_matched(labels, answers) / images,
        )

    @property
    def reordered(self) -> bool:
        """Whether its classes seem to be in another order than the labels."""
        if self._at_most(self.luck) < SURE:
            return True
        enough = self.images >= FEW * self.classes and self.renamed >= max(MOST_LIKELY, self.accuracy + GAP)
        knows = binomial_tail(round(self.renamed * self.images), self.images, self.majority) < SURE
        return enough and knows and self._at_most(self.renamed) < SURE

    @property
    def near_chance(self) -> bool:
        """Whether its accuracy may be that of always naming the largest class (two-sided exact binomial test)."""
        return 2 * min(self._at_most(self.majority), self._at_least(self.majority)) > USUAL

    def warning(self, who: str) -> str:
        """What a user must know of a teacher like that, in a sentence; empty if nothing."""
        accuracy, largest = (
            f"test accuracy {100 * self.accuracy:.2f} %",
            f"always naming the largest class has {100 * self.majority:.2f} %",
        )
        if self.reordered:
            return f"{who} seems to have its classes in another order than the labels: {accuracy}, {self.evidence}"
        if self.near_chance:
            return f"{who} is near chance: {accuracy}, and {largest}; what it teaches is noise"
        return f"{who} is worse than a constant answer: {accuracy}, and {largest}" if self.accuracy < self.majority else ""

    @property
    def evidence(self) -> str:
        """What speaks for another order of the classes."""
        if self.renamed >= self.accuracy + GAP:
            return f"with its classes renamed {100 * self.renamed:.2f} %"
        return f"less than the {100 * self.luck:.2f} % of its answers dealt at random"

    def _at_most(self, share: float) -> float:
        return binomial_tail(self.images - self._hits, self.images, 1 - share)

    def _at_least(self, share: float) -> float:
        return binomial_tail(self._hits, self.images, share)

    @property
    def _hits(self) -> int:
        return round(self.accuracy * self.images)


def _matched(labels: Tensor, answers: Tensor) -> int:
    """Images that are right where labels and answers [N] are matched one to one, the most frequent pair first."""
    pairs, counts = torch.stack([labels, answers], 1).unique(dim=0, return_counts=True)
    met, found = (set[int](), set[int]()), 0
    for place in counts.argsort(descending=True, stable=True).tolist():
        label, answer = pairs[place].tolist()
        if label not in met[0] and answer not in met[1]:
            met[0].add(label)
            met[1].add(answer)
            found += int(counts[place])
    return found


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """How likely at least so many hits are in so many trials, each of which hits with probability `share`."""
    if hits <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    k = torch.arange(hits, trials + 1, dtype=torch.float64)
    ways = torch.lgamma(torch.tensor(trials + 1.0, dtype=torch.float64)) - torch.lgamma(k + 1) - torch.lgamma(trials - k + 1)
    p = torch.tensor(share, dtype=torch.float64)
    return min(1.0, float((ways + k * p.log() + (trials - k) * torch.log1p(-p)).exp().sum()))
