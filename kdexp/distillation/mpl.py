"""Meta Pseudo Labels (Pham et al. 2021, arXiv 2003.10580)."""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.configuration.arguments import Fraction, Positive, Range, Weight
from kdexp.data.batch import Batch
from kdexp.data.views import STRONG, WEAK
from kdexp.distillation.base import Terms, Trainee
from kdexp.distillation.second_network import build_second, check_node
from kdexp.distillation.semi_supervised import SemiSupervised, linear_ramp, unlabelled_of
from kdexp.errors import Problem

LabelView = Literal["weak", "strong"]


class MPL(SemiSupervised):
    """A student learns from a teacher's pseudo labels alone, and the teacher from how much these helped the student.

    In a step the teacher labels the unlabelled images, and the student learns these labels for the strong views. Its loss on
    the labelled images before that minus its loss after, h, is the feedback: the teacher minimises cross-entropy with the
    labels, UDA on the unlabelled images, and h times its own cross-entropy with the pseudo labels.

    In the last `finetune_epochs` of the training, the student alone learns, by cross-entropy with the labels, at the constant
    learning rate `finetune_lr`; the teacher stays as it is, and no unlabelled images are read.

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
        finetune_epochs: Annotated[int, Range(at_least=0, within=(0, 100_000))],
        finetune_lr: Positive,
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
        self.finetune_epochs = finetune_epochs
        self.finetune_lr = finetune_lr

    def length_problems(self, epochs):
        if self.finetune_epochs < epochs or not self.finetune_epochs:
            return []
        sentence = (
            f"={self.finetune_epochs}: are the last of {epochs} epochs, and none would be left; choose fewer, or more epochs"
        )
        return [Problem("finetune_epochs", sentence)]

    def setup(self, probe):
        self.teacher = build_second("teacher", self.node, probe)
        if self.baseline_decay is not None:
            self.register_buffer("average_feedback", torch.zeros(()))

    def scheduled(self, progress):
        return {"ramp": linear_ramp(progress, self.uda_ramp)}

    def phase(self, progress):
        """Whether the step is one of the fine-tuning."""
        return progress.epoch >= progress.epochs - self.finetune_epochs

    def reads_unlabelled(self, progress):
        return not self.phase(progress)

    def student_rate(self, progress, scheduled):
        if self.phase(progress):
            return self.finetune_lr
        return scheduled if progress.epoch >= self.student_wait * progress.epochs else 0.0

    def update(self, learner, batch, teacher, progress):
        terms = self.finetuning_step(learner, batch) if self.phase(progress) else self.both_steps(learner, batch)
        return {name: terms[name] if name in terms else batch.image.new_zeros(()) for name in self.names}

    @property
    def names(self) -> list[str]:
        """The terms of all steps: those that a step does not have are logged as 0."""
        weights = {"ce": self.ce_weight, "uda": self.uda_weight, "feedback": self.weight, "finetuning": self.finetune_epochs}
        return ["student", *(name for name, weight in weights.items() if weight)]

    def finetuning_step(self, learner: Trainee, batch: Batch) -> Terms:
        """A step of the student on the labelled images."""
        terms = {"finetuning": F.cross_entropy(learner.forward(batch.image).logits, batch.label)}
        learner.note(**dict.fromkeys(("mask", "feedback_factor"), batch.image.new_zeros(())))
        learner.descend(terms)
        return terms

    def both_steps(self, learner: Trainee, batch: Batch) -> Terms:
        """A step of the student on pseudo labels, and one of the teacher, which gets the feedback."""
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

    def describe(self):
        return super().describe() + (f", then CE for {self.finetune_epochs} epochs" if self.finetune_epochs else "")
