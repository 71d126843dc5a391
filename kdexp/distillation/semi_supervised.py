"""The base of methods that learn from images without labels, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

from torch import Tensor

from kdexp.configuration.arguments import Fraction, Range, Weight
from kdexp.data.batch import Batch, Unlabelled
from kdexp.data.views import View
from kdexp.distillation.base import Distiller, Progress, Terms, Trainee, overrides

Ratio = Annotated[int, Range(at_least=1, within=(1, 1000))]
"""Unlabelled images in a batch for each labelled one."""


class SemiSupervised(Distiller):
    """`ce_weight`·CE on labelled images + `weight`·(the terms of `consistency` on unlabelled ones); there is no teacher.

    Most methods declare the views of unlabelled images that they read in `unlabelled`, and write only `consistency`. One that
    mixes images or changes them first overrides `update`.
    """

    uses_teacher = False
    shown: tuple[View, ...] | None = None
    """The views of unlabelled images that the student answers to; None for all that the method reads."""
    statistics: Literal["joint", "labelled"] = "joint"
    """What batch norms see: all images in one pass, or labelled and unlabelled ones in passes of their own, of which only the
    first changes the running statistics."""

    def __init__(self, *, weight: Weight, unlabelled_ratio: Ratio, **shared):
        super().__init__(**shared)
        self.weight = weight
        self.unlabelled_ratio = unlabelled_ratio

    @property
    def weighs_classes(self):
        """Whether its cross-entropy is that of `label_terms`; a method with an `update` of its own has to say so."""
        return not overrides(type(self), "update", base=SemiSupervised)

    def update(self, learner, batch, teacher, progress):
        unlabelled = unlabelled_of(batch)
        views = self.unlabelled if self.shown is None else self.shown
        images = [batch.image, *(unlabelled.views[view] for view in views)]
        first, *others = learner.forward_all(images, joint=self.statistics == "joint")
        logits = {view: outputs.logits for view, outputs in zip(views, others, strict=True)}
        terms = self.label_terms(batch, first.logits)
        for name, term in self.consistency(learner, unlabelled, logits, progress).items():
            terms[name] = self.weight * term
        learner.descend(terms)
        return terms

    def label_terms(self, batch: Batch, logits: Tensor) -> Terms:
        """The weighted cross-entropy of logits [N, K] with the labels, by name; empty without weight."""
        if not self.ce_weight:
            return {}
        return {"ce": self.ce_weight * batch.label_loss(partial(self.hard_loss, logits))}

    def consistency(self, learner: Trainee, unlabelled: Unlabelled, logits: Mapping[View, Tensor], progress: Progress) -> Terms:
        """The method's own terms by name, scalars before `weight`, from the logits [M, K] of each view."""
        raise NotImplementedError

    def weighted(self):
        return [(self.ce_weight, "CE"), (self.weight, self.label)]


def unlabelled_of(batch: Batch) -> Unlabelled:
    """The unlabelled images of a batch, which methods that declare that they read some always get."""
    assert batch.unlabelled is not None
    return batch.unlabelled


def linear_ramp(progress: Progress, share: float) -> float:
    """Rises from 0 to 1 over that share of the training, and stays there; it is always 1 for the share 0."""
    return min(progress.epoch / (share * progress.epochs), 1.0) if share else 1.0


def gaussian_ramp(progress: Progress, share: float) -> float:
    """exp(−5·(1 − t)²), where t is the linear ramp (Laine and Aila 2017, arXiv 1610.02242)."""
    return math.exp(-5 * (1 - linear_ramp(progress, share)) ** 2)


class Ramped(SemiSupervised):
    """A method whose consistency gains its weight over the share `ramp` of the training: `self.now["ramp"]`, 0 to 1."""

    def __init__(self, *, ramp: Fraction, **shared):
        super().__init__(**shared)
        self.ramp = ramp

    def scheduled(self, progress):
        return {"ramp": linear_ramp(progress, self.ramp)}
