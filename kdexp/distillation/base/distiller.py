"""The base class of all distillation methods: their common loss terms, weights, and how a training step uses them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Fraction, Range, Temperature, Weight
from kdexp.data.batch import Batch, of_labelled
from kdexp.data.views import WEAK, Reading, View
from kdexp.distillation.base.step import Probe, Progress, Terms, Trainee
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.capture import Outputs

MaybeRatio = Annotated[int, Range(at_least=0, within=(0, 1000))]
"""Unlabelled images in a batch for each labelled one, where a method may do without."""

BOTH_WEIGHTINGS = (
    "is short for ce_weight=alpha, kd_weight=1-alpha and excludes them; "
    "add distillation.alpha=null, or distillation.ce_weight=null distillation.kd_weight=null"
)


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student) of logits [N, K] at temperature T, summed over classes and averaged over the batch.

    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
    """
    target = F.log_softmax(teacher / temperature, dim=1)
    answer = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(answer, target, reduction="batchmean", log_target=True) * temperature**2


class Distiller(nn.Module, Checked):
    """The base of all methods: `ce_weight`·CE + `kd_weight`·T²·KL + `weight`·(the terms of `transfer`).

    Most methods write only `transfer`. A method may override `losses` (all named, weighted terms of a step), `update` if it
    takes several optimizer steps per batch or trains more than the student, and `answer` and `deployed` if its student
    predicts with more than its own network. A method never runs a model itself: `update` calls the learner, so that
    precision, caching and joint training stay outside the method. Modules that only training needs are built in `setup`.

    `alpha` is short for `ce_weight=alpha, kd_weight=1-alpha` and excludes both; a weight that is None is taken from
    `own_weights`. The networks read one view of the images each (see `kdexp.data.views`), `own_views` where none is given.
    """

    own_weights: tuple[float, float] = (1.0, 0.0)
    """The method's default (ce_weight, kd_weight)."""
    own_views: tuple[View, View] = (WEAK, WEAK)
    """The method's default (student_view, teacher_view)."""
    uses_teacher: bool = True
    reads_labels: bool = False
    """Whether the method's own terms read `batch.label`, which mixed images have two of."""
    label: str = ""
    """Name of the method's own term in the table."""
    weight: float = 1.0
    capturable: bool = False
    """Whether a step may be recorded and replayed (graph=true): full batches do the same work on other tensors as long as
    `phase` stays equal, no computed value is read by Python, and the method's state is in buffers. Not inherited.
    """
    other_views: tuple[View, ...] = ()
    """Views that the method reads besides the student's, in `Batch.views`; none for most methods."""
    unlabelled: tuple[View, ...] = ()
    """The views of unlabelled images that the method reads; none for most methods."""
    unlabelled_ratio: int = 0
    """Unlabelled images in a batch for each labelled one."""
    of_outputs: bool = False
    """Whether the method's own terms are means over images that read nothing of a batch but both networks' outputs, so that
    they can be taken of unlabelled images, too (`unlabelled_ratio`). Not inherited."""
    per_image: bool = False
    """Whether all terms are means over images, of which each depends on one image: several ranks may have a part of the
    batch each. Not inherited."""
    paces_student: bool = False
    """Whether the student's learning rate is what `student_rate` says; the method's modules have the schedule's."""
    needs_average: bool = False
    """Whether it asks the moving average of the student's weights, so that there has to be one."""
    features_only: bool = False
    """Whether the method's own terms read only the teacher's features, not its logits or classifier. Not inherited."""
    class_weights: Tensor | None
    tempered: bool = False
    """Whether the method's own term also depends on `temperature`."""

    def __init_subclass__(cls, **options):
        """Resets the flags that are not inherited: a subclass that does not declare them may do anything."""
        super().__init_subclass__(**options)
        for flag in ("capturable", "features_only", "of_outputs", "per_image"):
            if flag not in vars(cls):
                setattr(cls, flag, False)

    def __init__(
        self,
        *,
        temperature: Temperature,
        alpha: Fraction | None,
        ce_weight: Weight | None,
        kd_weight: Weight | None,
        student_view: View | None = None,
        teacher_view: View | None = None,
        unlabelled_ratio: MaybeRatio | None = None,
    ):
        super().__init__()
        if alpha is not None and (ce_weight is not None or kd_weight is not None):
            raise InvalidArguments([Problem("alpha", f"={alpha!r}: {BOTH_WEIGHTINGS}")])
        if alpha is not None:
            ce_weight, kd_weight = alpha, 1 - alpha
        self.register_buffer("class_weights", None, persistent=False)
        self.now: Mapping[str, Tensor] = {}
        self.temperature = temperature
        self.ce_weight = self.own_weights[0] if ce_weight is None else ce_weight
        self.kd_weight = self.own_weights[1] if kd_weight is None else kd_weight
        self.student_view: View = student_view or self.own_views[0]
        self.teacher_view: View = teacher_view or self.own_views[1]
        if unlabelled_ratio:
            self.unlabelled_ratio, self.unlabelled = unlabelled_ratio, (self.student_view,)

    @property
    def views_read(self) -> set[View]:
        """The views that its networks read, of labelled and of unlabelled images."""
        of_teacher = [self.teacher_view] if self.uses_teacher else []
        return {self.student_view, *self.other_views, *of_teacher, *self.unlabelled}

    @property
    def teacher_readings(self) -> list[Reading]:
        """What its teacher reads: the labelled images, then the unlabelled ones if it teaches these, too; none without one."""
        if not self.uses_teacher:
            return []
        return [Reading(self.teacher_view, unlabelled) for unlabelled in (False, True)[: 1 + bool(self.unlabelled)]]

    @property
    def images_per_label(self) -> int:
        """Images that a step shows the student for each labelled one, itself included."""
        return 1 + len(self.other_views) + self.unlabelled_ratio * len(self.unlabelled)

    def weigh_classes(self, weights: Tensor | None) -> None:
        """Sets the weight of each class [K] in the cross-entropy with the labels; None weighs all the same."""
        self.class_weights = weights

    def hard_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Returns the cross-entropy of logits [N, K] with labels [N], averaged over the batch by the weights of its classes.

        With weights w this is Σ w[label]·CE / Σ w[label], as PyTorch defines it: the plain mean if the batch has one class.
        """
        return F.cross_entropy(logits, label, weight=self.class_weights)

    @property
    def weighs_classes(self) -> bool:
        """Whether `class_weights` reach the class's cross-entropy: it leaves that term to `losses` of the base."""
        return not overrides(type(self), "losses", "update")

    def length_problems(self, epochs: int) -> list[Problem]:
        """Returns the problems of its arguments with a training of so many epochs."""
        return []

    def layers(self, student: nn.Module, teacher: nn.Module | None) -> tuple[list[str], list[str]]:
        """Returns the names of the student's and the teacher's layers whose outputs the method reads."""
        return [], []

    def setup(self, probe: Probe) -> None:
        """Builds auxiliary modules for the shapes in `probe`; raises `ValueError` for features it can't compare."""

    def answer(self, student: Outputs) -> Outputs:
        """Returns the outputs that `losses` and the training accuracy use, made from those of the student's network."""
        return student

    def images(self, batch: Batch) -> Tensor:
        """Returns the images that the student answers to: the labelled ones, then the unlabelled ones that it reads."""
        if not self.unlabelled:
            return batch.image
        assert batch.unlabelled is not None
        return torch.cat([batch.image, batch.unlabelled.seen(self.student_view)])

    def update(self, learner: Trainee, batch: Batch, teacher: Outputs | None, progress: Progress) -> Terms:
        """Takes the training step(s) for one batch and returns the named loss terms."""
        student = learner.forward(self.images(batch))
        terms = self.losses(batch, student, teacher, progress)
        learner.descend(terms)
        return terms

    def losses(self, batch: Batch, student: Outputs, teacher: Outputs | None, progress: Progress) -> Terms:
        """Returns the weighted scalar terms of one step by name: their sum is the objective, the names are logged.

        Of outputs for more images than the batch has labels, the first ones have these; all other terms are of all images.
        """
        terms = {}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * batch.label_loss(partial(self.hard_loss, of_labelled(student.logits, batch.label)))
        if self.kd_weight and teacher is not None:
            terms["kd"] = self.kd_weight * soft_target_loss(student.logits, teacher.logits, self.temperature)
        return terms | self.own_terms(batch, student, teacher, progress)

    def own_terms(self, batch: Batch, student: Outputs, teacher: Outputs | None, progress: Progress) -> Terms:
        """Returns the terms of `transfer`, weighted; none without a teacher."""
        found = {} if teacher is None else self.transfer(batch, student, teacher, progress)
        return {name: self.weight * term for name, term in found.items()}

    def transfer(self, batch: Batch, student: Outputs, teacher: Outputs, progress: Progress) -> Terms:
        """Returns the method's own terms, scalars by name, before they are multiplied by `weight`."""
        return {}

    def scheduled(self, progress: Progress) -> dict[str, float]:
        """Returns the numbers that change during training by name; `self.now` has them in a step, as scalars on the device.

        A recorded step reads them there, where a number computed from `progress` would stay that of the recorded step.
        """
        return {}

    def student_rate(self, progress: Progress, scheduled: float) -> float:
        """Returns the student's learning rate, where the schedule has `scheduled`, if the method declares `paces_student`."""
        return scheduled

    def phase(self, progress: Progress) -> Any:
        """Returns the part of the progress that a capturable method's steps depend on."""
        return None

    def reads_teacher(self, progress: Progress) -> bool:
        """Whether a step reads the teacher's outputs: the teacher does not run for a step in which no learner does."""
        return self.uses_teacher

    def reads_unlabelled(self, progress: Progress) -> bool:
        """Whether a step reads unlabelled images: an epoch in which no learner does has none."""
        return bool(self.unlabelled)

    def deployed(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """Returns the network that is evaluated, counted and exported; it shares its trained parameters with the student."""
        return student

    @property
    def deploys_more(self) -> bool:
        """Whether more than the student's own network is deployed."""
        return overrides(type(self), "deployed")

    @property
    def reads_logits(self) -> bool:
        """Whether the objective or the deployed network depends on the teacher's logits or its classifier."""
        has_own_terms = overrides(type(self), "transfer", *BEYOND_TERMS)
        return self.uses_teacher and (self.kd_weight > 0 or (has_own_terms and not self.features_only))

    def weighted(self) -> list[tuple[float, str]]:
        """Returns the terms that `describe` lists, as (weight, name in the table)."""
        return [(self.ce_weight, "CE"), (self.kd_weight, "KD"), (self.weight if self.label else 0.0, self.label)]

    def describe(self) -> str:
        """Returns the objective as the table shows it, such as `0.1 CE + 0.9 KD, T=4`."""
        terms = " + ".join(name if weight == 1 else f"{weight:.4g} {name}" for weight, name in self.weighted() if weight)
        tempered = self.kd_weight or (self.tempered and self.weight)
        return (f"{terms}, T={self.temperature:g}" if tempered else terms) + self._views() + self._beside()

    def _beside(self) -> str:
        """The unlabelled images that the teacher teaches, too, in words."""
        return f", {self.unlabelled_ratio} unlabelled per label" if self.uses_teacher and self.unlabelled else ""

    def _views(self) -> str:
        """The views in words, an empty string for those that most methods read."""
        if (self.student_view, self.teacher_view) == Distiller.own_views:
            return ""
        if not self.uses_teacher:
            return f", {self.student_view} views"
        if self.student_view == self.teacher_view:
            return f", views {self.student_view}"
        return f", student {self.student_view}, teacher {self.teacher_view}"


BEYOND_TERMS = ("update", "losses", "answer", "deployed")
"""Methods of `Distiller` whose override does more than add a term to the loss."""


def overrides(method: type[Distiller], *names: str, base: type[Distiller] = Distiller) -> bool:
    """Whether the class has another implementation of any of these methods than the `base`."""
    return any(getattr(method, name) is not getattr(base, name) for name in names)
