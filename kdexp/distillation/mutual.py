"""Deep mutual learning (Zhang et al. 2018, arXiv 1706.00384)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdexp.distillation.base import Distiller, Terms, soft_target_loss
from kdexp.errors import InvalidArguments, Problem


class Mutual(Distiller):
    """Two nets on the same batches, each with `ce_weight`·CE + `kd_weight`·T²·KL(the other ‖ it), the other taken as given.

    Both read the batch before either is changed, and one optimizer takes one step over both. That is what two of its kind
    would do, as no term of one net reaches the other; a recipe's `clip_norm` alone looks at both. (The paper lets the nets
    take turns; most later work steps at once.) The peer is a network of the same shape of data, drawn anew from a random
    stream of its own, so that it starts elsewhere than the student, whatever its node says of a start. It is trained, resumed
    and stored with the student and not deployed.
    """

    own_weights = (1.0, 1.0)
    uses_teacher = False
    capturable = True

    def __init__(self, *, peer: dict[str, Any], **shared):
        super().__init__(**shared)
        if "_target_" not in peer:
            way_out = "the peer is a network: distillation.peer=${student} or distillation.peer=${teacher}"
            raise InvalidArguments([Problem("peer", f"={peer!r}: names no _target_; {way_out}")])
        self.node = peer

    def setup(self, probe):
        from kdexp.network.build import build_network, sketch_network  # which know of methods themselves

        build = sketch_network if probe.student.logits.is_meta else build_network
        try:
            self.peer = build(self.node, probe.shape)
        except InvalidArguments as error:
            raise InvalidArguments(problem.under("peer") for problem in error.problems) from error

    def update(self, learner, batch, teacher, progress):
        terms = self.mutual_terms(learner.forward(batch.image).logits, learner.ask(self.peer, batch.image), batch.label)
        learner.descend(terms)
        return terms

    def mutual_terms(self, student: Tensor, peer: Tensor, label: Tensor) -> Terms:
        """The weighted terms of logits [N, K]: the student's `ce` and `kl`, the peer's `peer_ce` and `peer_kl`."""
        terms = {}
        for prefix, own, other in (("", student, peer), ("peer_", peer, student)):
            if self.ce_weight:
                terms[f"{prefix}ce"] = self.ce_weight * F.cross_entropy(own, label)
            if self.kd_weight:
                terms[f"{prefix}kl"] = self.kd_weight * soft_target_loss(own, other.detach(), self.temperature)
        return terms

    def weighted(self):
        return [(self.ce_weight, "CE"), (self.kd_weight, "peer's KL")]
