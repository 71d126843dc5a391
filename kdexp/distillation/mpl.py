"""Meta Pseudo Labels (Pham et al. 2021, arXiv 2003.10580)."""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Fraction, Range, Weight
from kdexp.data.views import STRONG, WEAK
from kdexp.distillation.base import Trainee
from kdexp.distillation.second_network import build_second, check_node
from kdexp.distillation.semi_supervised import SemiSupervised, linear_ramp, unlabelled_of

LabelView = Literal["weak", "strong"]


class MPL(SemiSupervised):
    """A student learns from a teacher's pseudo labels alone, and the teacher from how much these helped the student.

    In a step the teacher labels the unlabelled images, and the student learns these labels for the strong views. Its loss on
    the labelled images before that minus its loss after, h, is the feedback: the teacher minimises cross-entropy with the
    labels, UDA on the unlabelled images, and h times its own cross-entropy with the pseudo labels.

    Both losses of h are of the labelled images alone, by the statistics of that batch, so that h is 0 if the student's weights
    do not change; with dropout it is noisy. One optimizer serves both networks, since in each of its steps only one of them has
    gradients. The teacher is always freshly initialised; it is trained, resumed and stored with the student, but not deployed.
    """

    label = "feedback"
    tempered = True
    capturable = True
    unlabelled = (WEAK, STRONG)
    paces_student = True
    average_feedback: Tensor

    def __init__(
        self,
        *,
        teacher: dict[str, Any],
        uda_weight: Weight,
        uda_ramp: Fraction,
        threshold: Fraction,
        label_smoothing: Annotated[float, Range(at_least=0, below=1)],
        pseudo_labels: Literal["argmax", "sampled", "soft"],
        student_labels: LabelView,
        feedback_labels: LabelView,
        feedback: Literal["old_minus_new", "new_minus_old"],
        baseline_decay: Fraction | None,
        student_wait: Fraction,
        **shared,
    ):
        super().__init__(**shared)
        check_node("teacher", teacher, "the teacher is a network: 'distillation.teacher=${student}'")
        self.node = teacher
        self.uda_weight = uda_weight
        self.uda_ramp = uda_ramp
        self.threshold = threshold
        self.label_smoothing = label_smoothing
        self.pseudo_labels = pseudo_labels
        self.student_labels = student_labels
        self.feedback_labels = feedback_labels
        self.sign = 1 if feedback == "old_minus_new" else -1
        self.baseline_decay = baseline_decay
        self.student_wait = student_wait

    def setup(self, probe):
        self.teacher = build_second("teacher", self.node, probe)
        if self.baseline_decay is not None:
            self.register_buffer("average_feedback", torch.zeros(()))

    def scheduled(self, progress):
        return {"ramp": linear_ramp(progress, self.uda_ramp)}

    def pace(self, progress):
        return float(progress.epoch >= self.student_wait * progress.epochs)

    def update(self, learner, batch, teacher, progress):
        views = unlabelled_of(batch).views
        images = [batch.image, views[WEAK], views[STRONG]]
        labelled, weak, strong = learner.ask(self.teacher, torch.cat(images)).split([len(image) for image in images])
        made = {WEAK: self.labels_of(weak), STRONG: self.labels_of(strong)}
        _, answer = learner.forward_all([batch.image, views[STRONG]], joint=True)
        terms = {"student": self._smooth_loss(answer.logits, made[self.student_labels])}
        old = self._labelled_loss(learner, batch.image, batch.label)
        learner.descend(terms)
        feedback = self._without_baseline(self.sign * (old - self._labelled_loss(learner, batch.image, batch.label)))
        confident = self._sharpened(weak).amax(1) >= self.threshold
        learner.note(mask=confident.float().mean(), feedback_factor=feedback)
        of_teacher = self.teacher_terms(labelled, weak, strong, batch.label)
        if self.weight:
            of_teacher["feedback"] = self.weight * feedback * F.cross_entropy(strong, made[self.feedback_labels])
        learner.descend(of_teacher)
        return {**terms, **of_teacher}

    def labels_of(self, logits: Tensor) -> Tensor:
        """The pseudo labels of the teacher's logits [M, K]: classes [M], or probabilities [M, K]; without gradient."""
        logits = logits.detach()
        if self.pseudo_labels == "soft":
            return logits.softmax(1)
        if self.pseudo_labels == "sampled":  # the largest of logits with Gumbel noise has the distribution of their softmax
            logits = logits - torch.empty_like(logits).exponential_().log()
        return logits.argmax(1)

    def teacher_terms(self, labelled: Tensor, weak: Tensor, strong: Tensor, label: Tensor) -> dict[str, Tensor]:
        """What the teacher learns besides the feedback, from its logits of labelled images [N, K] and of both views [M, K]."""
        terms = {}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * self._smooth_loss(labelled, label)
        if self.uda_weight:
            target = self._sharpened(weak)
            loss = F.cross_entropy(strong, target, reduction="none") * (target.amax(1) >= self.threshold)
            terms["uda"] = self.uda_weight * self.now["ramp"] * loss.mean()
        return terms

    def _sharpened(self, logits: Tensor) -> Tensor:
        return (logits.detach() / self.temperature).softmax(1)

    def _smooth_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    @torch.no_grad()
    def _labelled_loss(self, learner: Trainee, image: Tensor, label: Tensor) -> Tensor:
        """The student's cross-entropy with the labels now."""
        return F.cross_entropy(learner.forward_aside(image).logits, label)

    def _without_baseline(self, feedback: Tensor) -> Tensor:
        """The feedback minus its moving average, which takes it in first, as in the authors' code."""
        if self.baseline_decay is None:
            return feedback
        self.average_feedback.lerp_(feedback.to(self.average_feedback.dtype), 1 - self.baseline_decay)
        return feedback - self.average_feedback

    def weighted(self):
        return [(self.ce_weight, "CE"), (self.uda_weight, "UDA"), (self.weight, self.label)]
