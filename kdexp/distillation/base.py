"""The base classes of all distillation methods: their common loss terms, weights, and how a training step uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Fraction, Temperature, Weight
from kdexp.data.batch import Batch
from kdexp.data.shape import Shape
from kdexp.data.views import WEAK, View
from kdexp.errors import InvalidArguments, Problem, UnknownLayer
from kdexp.network.capture import Capture, Outputs
from kdexp.network.landmarks import classifier_of, has_landmarks, landmarks_of

Terms = dict[str, Tensor]

BOTH_WEIGHTINGS = (
    "is short for ce_weight=alpha, kd_weight=1-alpha and excludes them; "
    "add distillation.alpha=null, or distillation.ce_weight=null distillation.kd_weight=null"
)


@dataclass(frozen=True)
class Probe:
    """What a method sees before training: both networks' outputs on one small batch, in evaluation mode, and the data's sizes.

    When only shapes are checked, `labels` is a stand-in with one image per class.
    """

    student: Outputs
    teacher: Outputs | None
    labels: Tensor
    """Labels [N] of the student's training images, in the order of `Batch.index`."""
    batch_size: int
    """Images in a batch; the last batch of an epoch may be smaller."""
    shape: Shape
    classify: Callable[[Tensor], Tensor] | None = None
    """The frozen teacher's classifier, from pooled vectors [N, D] to logits [N, K]; None if it has no landmarks."""
    unlabelled: int = 0
    """Number of unlabelled images, which `Unlabelled.index` counts; 1 if only shapes are checked."""


@dataclass(frozen=True)
class Progress:
    """Training progress: `epoch` runs from 0 to `epochs`, measured at the middle of the step; `step` counts from 0."""

    epoch: float
    epochs: int
    step: int

    def ramp(self, epochs: int) -> float:
        """Warm-up factor: n/`epochs` throughout epoch n (counted from 1), and 1 after `epochs` epochs."""
        return min((int(self.epoch) + 1) / epochs, 1.0) if epochs else 1.0


class Trainee(Protocol):
    """The part of a learner that a method's `update` may use."""

    def forward(self, image: Tensor) -> Outputs:
        """Returns the student's outputs for `image` [N, C, H, W]."""

    def ask(self, network: nn.Module, image: Tensor) -> Tensor:
        """Returns the logits [N, K] of another network that the method trains."""

    def forward_all(self, images: Sequence[Tensor], *, joint: bool, interleaved: bool = False) -> list[Outputs]:
        """Returns the student's outputs for each of these batches of images, the labelled one first.

        They go through the network in one pass (`joint`), or in passes of their own, of which the first alone changes the
        running statistics of batch norms; with `interleaved`, each of these has some images of the first batch.
        """

    def ask_average(self, image: Tensor) -> Tensor:
        """Returns the logits [N, K] of the moving average of the student's weights, without gradient.

        It answers in training mode, with the statistics of the batch, and keeps its running ones. A method that asks it
        declares `needs_average`.
        """

    def forward_aside(self, image: Tensor) -> Outputs:
        """Returns the student's outputs for `image`, in a pass that changes no running statistics of batch norms."""

    def exactly(self) -> AbstractContextManager[None]:
        """Inside, networks compute in fp32, whatever the run's precision."""

    def note(self, **measures: Tensor) -> None:
        """Adds scalars of this step to the learner's history that are no part of the objective."""

    def descend(self, terms: Terms) -> None:
        """Takes one optimizer step on the sum of the terms."""


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
    per_image: bool = False
    """Whether all terms are means over images, of which each depends on one image: several ranks may have a part of the
    batch each. Not inherited."""
    paces_student: bool = False
    """Whether the student's learning rate is that of the schedule times `pace`; the method's modules have the schedule's."""
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
        for flag in ("capturable", "features_only", "per_image"):
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

    @property
    def views_read(self) -> set[View]:
        """The views that its networks read, of labelled and of unlabelled images."""
        of_teacher = [self.teacher_view] if self.uses_teacher else []
        return {self.student_view, *self.other_views, *of_teacher, *self.unlabelled}

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

    def layers(self, student: nn.Module, teacher: nn.Module | None) -> tuple[list[str], list[str]]:
        """Returns the names of the student's and the teacher's layers whose outputs the method reads."""
        return [], []

    def setup(self, probe: Probe) -> None:
        """Builds auxiliary modules for the shapes in `probe`; raises `ValueError` for features it can't compare."""

    def answer(self, student: Outputs) -> Outputs:
        """Returns the outputs that `losses` and the training accuracy use, made from those of the student's network."""
        return student

    def update(self, learner: Trainee, batch: Batch, teacher: Outputs | None, progress: Progress) -> Terms:
        """Takes the training step(s) for one batch and returns the named loss terms."""
        student = learner.forward(batch.image)
        terms = self.losses(batch, student, teacher, progress)
        learner.descend(terms)
        return terms

    def losses(self, batch: Batch, student: Outputs, teacher: Outputs | None, progress: Progress) -> Terms:
        """Returns the weighted scalar terms of one step by name: their sum is the objective, the names are logged."""
        terms = {}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * batch.label_loss(partial(self.hard_loss, student.logits))
        if teacher is None:
            return terms
        if self.kd_weight:
            terms["kd"] = self.kd_weight * soft_target_loss(student.logits, teacher.logits, self.temperature)
        for name, term in self.transfer(batch, student, teacher, progress).items():
            terms[name] = self.weight * term
        return terms

    def transfer(self, batch: Batch, student: Outputs, teacher: Outputs, progress: Progress) -> Terms:
        """Returns the method's own terms, scalars by name, before they are multiplied by `weight`."""
        return {}

    def scheduled(self, progress: Progress) -> dict[str, float]:
        """Returns the numbers that change during training by name; `self.now` has them in a step, as scalars on the device.

        A recorded step reads them there, where a number computed from `progress` would stay that of the recorded step.
        """
        return {}

    def pace(self, progress: Progress) -> float:
        """Returns the factor of the student's learning rate, if the method declares `paces_student`."""
        return 1.0

    def phase(self, progress: Progress) -> Any:
        """Returns the part of the progress that a capturable method's steps depend on."""
        return None

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
        return (f"{terms}, T={self.temperature:g}" if tempered else terms) + self._views()

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


def overrides(method: type[Distiller], *names: str) -> bool:
    """Whether the class has another implementation of any of these methods than `Distiller`."""
    return any(getattr(method, name) is not getattr(Distiller, name) for name in names)


Landmark = Literal["last_map", "last_stage", "stages", "second_stage", "preactivations", "pooled"]


class FeatureDistiller(Distiller):
    """A method that compares pairs of intermediate layers, given by `named_modules()` name or else chosen by landmark.

    If one network has more layers of a landmark than the other, the first ones are paired and the rest left out.
    """

    landmarks: tuple[Landmark, ...] = ("last_map",)
    teacher_landmarks: tuple[Landmark, ...] = ()
    """The teacher's landmarks, if they differ from the student's."""

    def __init__(
        self,
        *,
        weight: Weight,
        student_layers: list[str] | None,
        teacher_layers: list[str] | None,
        **shared,
    ):
        super().__init__(**shared)
        self.weight = weight
        self.student_layers = student_layers
        self.teacher_layers = teacher_layers

    def layers(self, student: nn.Module, teacher: nn.Module | None) -> tuple[list[str], list[str]]:
        """Raises `UnknownLayer` for models without landmarks and `ValueError` for lists of unequal length."""
        assert teacher is not None
        names, teacher_names = self.student_layers, self.teacher_layers
        ours = _by_landmark(student, self.landmarks) if names is None else [names]
        theirs = _by_landmark(teacher, self.teacher_landmarks or self.landmarks) if teacher_names is None else [teacher_names]
        if names is None and teacher_names is None:  # of each landmark, as many layers as both networks have
            groups = list(zip(ours, theirs, strict=True))
            ours = [mine[: len(other)] for mine, other in groups]
            theirs = [other[: len(mine)] for mine, other in groups]
        self._pairs = _paired(list(chain(*ours)), list(chain(*theirs)))
        return [ours for ours, _ in self._pairs], [theirs for _, theirs in self._pairs]

    def pairs(self, student: Outputs, teacher: Outputs | None) -> list[tuple[Tensor, Tensor]]:
        """Returns the features to compare as one (student's, teacher's) tuple per pair of layers."""
        assert teacher is not None
        return [(student.features[s], teacher.features[t]) for s, t in self._pairs]

    def only_pair(self, student: Outputs, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
        """Returns the only pair of features; raises `ValueError` if several layers are named."""
        if len(pairs := self.pairs(student, teacher)) != 1:
            raise ValueError(f"this method compares one pair of layers: student_layers and teacher_layers name {len(pairs)}")
        return pairs[0]


def _paired(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"student_layers and teacher_layers are pairs, but name {len(ours)} and {len(theirs)} layers")
    return list(zip(ours, theirs, strict=True))


def _by_landmark(model: nn.Module, landmarks: tuple[Landmark, ...]) -> list[list[str]]:
    """Returns the layers of each landmark, shallow to deep; raises `UnknownLayer` for a landmark that the model lacks."""
    found = [getattr(landmarks_of(model), landmark) for landmark in landmarks]
    for landmark, names in zip(landmarks, found, strict=True):
        if not names:
            raise UnknownLayer(f"{type(model).__name__} declares no {landmark}, so its layers must be named")
    return [[names] if isinstance(names, str) else list(names) for names in found]


def probe_of(
    student: Capture, teacher: Capture | None, labels: Tensor, batch_size: int, shape: Shape, unlabelled: int = 1
) -> Probe:
    """Returns the probe for a method between these two networks."""
    classify = classifier_of(teacher.model) if teacher and has_landmarks(teacher.model) else None
    return Probe(student.probe, teacher.probe if teacher else None, labels, batch_size, shape, classify, unlabelled)
