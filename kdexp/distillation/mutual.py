"""Deep mutual learning (Zhang et al. 2018, arXiv 1706.00384)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdexp.distillation.base import Distiller, Terms, soft_target_loss
from kdexp.distillation.second_network import build_second, check_node


class Mutual(Distiller):
    """Two networks on the same batches, each with `ce_weight`·CE + `kd_weight`·T²·KL(other ‖ own), the other held constant.

    Both see the batch before either changes, and one optimizer steps both. Since no gradient passes from one network to the
    other, two optimizers would do the same; only `clip_norm` takes the norm over both. (The paper updates them in turns; most
    later work steps both at once.) The peer is always freshly initialised from its own random stream, so that it differs from
    the student; checkpoints or weights in its node are ignored. It is trained, resumed and stored with the student, but not
    deployed.
    """

    own_weights = (1.0, 1.0)
    uses_teacher = False
    capturable = True
    per_image = True

    def __init__(self, *, peer: dict[str, Any], **shared):
        super().__init__(**shared)
        fix = "the peer is a network: 'distillation.peer=${student}' or 'distillation.peer=${teacher}'"
        check_node("peer", peer, fix)
        self.node = peer

    def setup(self, probe):
        self.peer = build_second("peer", self.node, probe)

    def update(self, learner, batch, teacher, progress):
        terms = self.mutual_terms(learner.forward(batch.image).logits, learner.ask(self.peer, batch.image), batch.label)
        learner.descend(terms)
        return terms

    def mutual_terms(self, student: Tensor, peer: Tensor, label: Tensor) -> Terms:
        """Returns the weighted terms for logits [N, K]: the student's `ce` and `kl`, the peer's `peer_ce` and `peer_kl`."""
        terms = {}
        for prefix, own, other in (("", student, peer), ("peer_", peer, student)):
            if self.ce_weight:
                terms[f"{prefix}ce"] = self.ce_weight * F.cross_entropy(own, label)
            if self.kd_weight:
                terms[f"{prefix}kl"] = self.kd_weight * soft_target_loss(own, other.detach(), self.temperature)
        return terms

    def weighted(self):
        return [(self.ce_weight, "CE"), (self.kd_weight, "peer's KL")]
