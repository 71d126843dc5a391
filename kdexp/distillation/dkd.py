"""Decoupled knowledge distillation (Zhao et al. 2022, arXiv 2203.08679)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import NonNegativeInt, Weight
from kdexp.distillation.base import Distiller


def other_classes(label: Tensor, num_classes: int) -> Tensor:
    """Returns all classes but the label's in ascending order: [N] to [N, K−1]."""
    classes = torch.arange(num_classes - 1, device=label.device)
    return classes + (classes >= label.unsqueeze(1))


def decoupled(student: Tensor, teacher: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Returns the two divergences [N] that make up KL(teacher ‖ student) of logits [N, K], both at `temperature`.

    The first is between the label's class and all others together, the second within the others;
    KL = first + (1 − teacher's probability of the label's class) · second.
    """
    others = other_classes(label, student.shape[1])
    two_way, within = [], []
    for logits in (student, teacher):
        log_p = F.log_softmax(logits / temperature, dim=1)
        wrong = log_p.gather(1, others)
        # logsumexp, because 1 − p would round to 0 where the network is certain.
        two_way.append(torch.cat([log_p.gather(1, label.unsqueeze(1)), wrong.logsumexp(1, keepdim=True)], dim=1))
        within.append(wrong.log_softmax(1))
    return _divergence(*two_way), _divergence(*within)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns KL(teacher ‖ student) [N] of log-probabilities [N, K]."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


class DKD(Distiller):
    """T²·(`target_weight`·KL of the label's class against the rest + `nontarget_weight`·KL within the rest), batch mean.

    Both terms warm up over `warmup_epochs`. With two classes the second term is 0.
    """

    label = "DKD"
    capturable = True
    per_image = True
    reads_labels = True
    tempered = True

    def __init__(
        self,
        *,
        weight: Weight,
        target_weight: Weight,
        nontarget_weight: Weight,
        warmup_epochs: NonNegativeInt,
        **shared,
    ):
        super().__init__(**shared)
        self.weight = weight
        self.target_weight, self.nontarget_weight = target_weight, nontarget_weight
        self.warmup_epochs = warmup_epochs

    def phase(self, progress):
        return progress.ramp(self.warmup_epochs)

    def transfer(self, batch, student, teacher, progress):
        factor = progress.ramp(self.warmup_epochs) * self.temperature**2
        target, nontarget = decoupled(student.logits, teacher.logits, batch.label, self.temperature)
        return {
            "target": factor * self.target_weight * target.mean(),
            "nontarget": factor * self.nontarget_weight * nontarget.mean(),
        }
