"""Virtual adversarial training with entropy minimisation (VAT; Miyato et al. 2019, arXiv 1704.03976)."""

from typing import Annotated

import torch
from torch import Tensor

from kdexp.configuration.arguments import Range, Weight
from kdexp.data.views import WEAK
from kdexp.distillation.base import Trainee, soft_target_loss
from kdexp.distillation.semi_supervised import Ramped, unlabelled_of

Length = Annotated[float, Range(at_least=0, within=(0, 1e6))]
Distance = Annotated[float, Range(above=0, within=(1e-12, 1e6))]
"""From an image; within the limits a network's answers are finite."""
Iterations = Annotated[int, Range(at_least=1, within=(1, 20))]
"""Of the power method; within the limit a step takes seconds."""
SMALLEST = torch.finfo(torch.float32).tiny


class VAT(Ramped):
    """KL(prediction ‖ prediction for the image moved by `epsilon` to where it changes most), and the predictions' entropy.

    That direction is approximated by `iterations` of the power method, from the gradient at a distance of `xi`. The entropy has
    the weight `entropy_weight` from the start.
    """

    label = "VAT"
    capturable = True
    unlabelled = (WEAK,)
    statistics = "labelled"

    def __init__(self, *, epsilon: Length, xi: Distance, iterations: Iterations, entropy_weight: Weight, **shared):
        super().__init__(**shared)
        self.epsilon = epsilon
        self.xi = xi
        self.iterations = iterations
        self.entropy_weight = entropy_weight

    @property
    def weighs_classes(self):
        return True

    def update(self, learner, batch, teacher, progress):
        image = unlabelled_of(batch).views[WEAK]
        labelled, here = (outputs.logits for outputs in learner.forward_all([batch.image, image], joint=False))
        moved = learner.forward_aside(image + self.perturbation(learner, image)).logits
        terms = self.label_terms(batch, labelled)
        terms["vat"] = self.weight * self.now["ramp"] * soft_target_loss(moved, here.detach(), 1.0)
        if self.entropy_weight:
            terms["entropy"] = self.entropy_weight * entropy(here)
        learner.descend(terms)
        return terms

    def perturbation(self, learner: Trainee, image: Tensor) -> Tensor:
        """What to add to images [M, C, H, W], each of length `epsilon`.

        So near to an image, predictions differ by less than the rounding errors of bf16 and TF32. This is why all of it is
        computed in fp32, the prediction for the image itself, too.
        """
        direction = to_unit_length(torch.randn_like(image))
        with learner.exactly():
            with torch.no_grad():
                here = learner.forward_aside(image).logits
            for _ in range(self.iterations):
                small = (self.xi * direction).requires_grad_()
                distance = soft_target_loss(learner.forward_aside(image + small).logits, here, 1.0)
                direction = to_unit_length(*torch.autograd.grad(distance, small))
        return self.epsilon * direction

    def weighted(self):
        return [*super().weighted(), (self.entropy_weight, "entropy")]


def to_unit_length(values: Tensor) -> Tensor:
    """Scales each of M tensors [M, ...] to length 1, first by its largest value, whose square may be 0 in fp32; 0 stays 0."""
    inner = tuple(range(1, values.ndim))
    values = values / values.abs().amax(inner, keepdim=True).clamp_min(SMALLEST)
    return values / torch.linalg.vector_norm(values, dim=inner, keepdim=True).clamp_min(SMALLEST)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of the predictions of logits [M, K], averaged over images."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
