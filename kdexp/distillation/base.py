"""What every distillation method shares: the two logit terms, their weights, and how a step is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Fraction, Temperature, Weight
from kdexp.data.batch import Batch
from kdexp.data.shape import Shape
from kdexp.errors import InvalidArguments, Problem, UnknownLayer
from kdexp.network.capture import Capture, Outputs
from kdexp.network.landmarks import classifier_of, has_landmarks, landmarks_of

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from kdexp.data.shape import Shape

Terms = dict[str, Tensor]

BOTH_WEIGHTINGS = (
    "is short for ce_weight=alpha, kd_weight=1-alpha and excludes them; "
    "add distillation.alpha=null, or distillation.ce_weight=null distillation.kd_weight=null"
)


@dataclass(frozen=True)
class Probe:
    """What a method may look at before training: both nets' outputs, in evaluation mode, on one small batch, and the data.

    Where only shapes are asked for, `labels` is a stand-in with one image per class.
    """

    student: Outputs
    teacher: Outputs | None
    labels: Tensor
    """[N], of the images that the student is trained on, in the order of `Batch.index`."""
    batch_size: int
    """Of every batch but perhaps the last one of an epoch."""
    shape: Shape
    classify: Callable[[Tensor], Tensor] | None = None
    """The frozen teacher's classifier: its pooled vectors [N, D] to logits [N, K]; None where no landmark says which it is."""


@dataclass(frozen=True)
class Progress:
    """How far the training is: `epoch` runs from 0 to `epochs` and is read in the middle of a step; `step` counts from 0."""

    epoch: float
    epochs: int
    step: int

    def ramp(self, epochs: int) -> float:
        """A factor that rises to 1 in equal steps from epoch to epoch: n/`epochs` all through epoch n, counted from 1."""
        return min((int(self.epoch) + 1) / epochs, 1.0) if epochs else 1.0


class Trainee(Protocol):
    """What a method may ask of the learner that it trains."""

    def forward(self, image: Tensor) -> Outputs:
        """The student's outputs on `image` [N, C, H, W]."""

    def ask(self, network: nn.Module, image: Tensor) -> Tensor:
        """The logits [N, K] of another network that the method trains."""

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

    A method usually writes only `transfer`, may override `losses` (all named, weighted terms of a step) and, where it takes
    several optimizer steps per batch or trains more than the student, `update`. It never runs a model: `update` asks the
    learner to, so that precision, caching and company stay outside the method. One whose student answers with more than its
    own network overrides `answer` and `deployed`.

    `alpha` is short for `ce_weight=alpha, kd_weight=1-alpha` and excludes both; a weight that is not given keeps the
    method's own `own_weights`. Trainable modules that only training needs are made in `setup`.
    """

    own_weights: tuple[float, float] = (1.0, 0.0)
    """The method's own (ce_weight, kd_weight)."""
    uses_teacher: bool = True
    label: str = ""
    """What the table calls the method's own term."""
    weight: float = 1.0
    capturable: bool = False
    """Whether steps on whole batches are the same work on other tensors as long as `phase` stays: nothing of what they compute
    reaches Python, and what the method remembers are buffers. Such a step may be recorded and replayed (graph=true). Each class
    declares it for itself.
    """
    features_only: bool = False
    """Whether the method's own terms read nothing of the teacher but features: neither logits nor its classifier. Each class
    declares it for itself.
    """
    tempered: bool = False
    """Whether the method's own term is softened by `temperature`, too."""

    def __init__(
        self,
        *,
        temperature: Temperature,
        alpha: Fraction | None,
        ce_weight: Weight | None,
        kd_weight: Weight | None,
    ):
        super().__init__()
        if alpha is not None and (ce_weight is not None or kd_weight is not None):
            raise InvalidArguments([Problem("alpha", f"={alpha!r}: {BOTH_WEIGHTINGS}")])
        if alpha is not None:
            ce_weight, kd_weight = alpha, 1 - alpha
        self.temperature = temperature
        self.ce_weight = self.own_weights[0] if ce_weight is None else ce_weight
        self.kd_weight = self.own_weights[1] if kd_weight is None else kd_weight

    def layers(self, student: nn.Module, teacher: nn.Module | None) -> tuple[list[str], list[str]]:
        """The names of the student's and the teacher's layers whose outputs the method reads."""
        return [], []

    def setup(self, probe: Probe) -> None:
        """Builds auxiliary modules for the shapes in `probe`; raises `ValueError` for features it can't join."""

    def answer(self, student: Outputs) -> Outputs:
        """What `losses` and the training accuracy look at, in place of what the student's network itself says."""
        return student

    def update(self, learner: Trainee, batch: Batch, teacher: Outputs | None, progress: Progress) -> Terms:
        """Takes the training step(s) for one batch and returns the named loss terms."""
        student = learner.forward(batch.image)
        terms = self.losses(batch, student, teacher, progress)
        learner.descend(terms)
        return terms

    def losses(self, batch: Batch, student: Outputs, teacher: Outputs | None, progress: Progress) -> Terms:
        """The named, weighted scalar terms of one step; their sum is the objective, their names are the log's columns."""
        terms = {}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * F.cross_entropy(student.logits, batch.label)
        if teacher is None:
            return terms
        if self.kd_weight:
            terms["kd"] = self.kd_weight * soft_target_loss(student.logits, teacher.logits, self.temperature)
        for name, term in self.transfer(batch, student, teacher, progress).items():
            terms[name] = self.weight * term
        return terms

    def transfer(self, batch: Batch, student: Outputs, teacher: Outputs, progress: Progress) -> Terms:
        """The method's own terms, scalars by name, before `weight`."""
        return {}

    def phase(self, progress: Progress) -> Any:
        """All that the steps of a capturable method read of the progress."""
        return None

    def deployed(self, student: nn.Module, teacher: nn.Module | None) -> nn.Module:
        """The network that is evaluated, counted and taken away after training; it shares what is trained."""
        return student

    @property
    def deploys_more(self) -> bool:
        """Whether what is deployed is not the student's network alone."""
        return type(self).deployed is not Distiller.deployed

    @property
    def reads_logits(self) -> bool:
        """Whether what is trained or deployed depends on the teacher's logits or on its classifier."""
        adds = any(getattr(type(self), way) is not getattr(Distiller, way) for way in ("transfer", *OWN_WAYS))
        return self.uses_teacher and (self.kd_weight > 0 or (adds and not declares(self, "features_only")))

    def weighted(self) -> list[tuple[float, str]]:
        """The weight of each term that `describe` tells of, and what the table calls it."""
        return [(self.ce_weight, "CE"), (self.kd_weight, "KD"), (self.weight if self.label else 0.0, self.label)]

    def describe(self) -> str:
        """The objective written out for the table, such as `0.1 CE + 0.9 KD, T=4`."""
        written = " + ".join(name if weight == 1 else f"{weight:.4g} {name}" for weight, name in self.weighted() if weight)
        tempered = self.kd_weight or (self.tempered and self.weight)
        return f"{written}, T={self.temperature:g}" if tempered else written


OWN_WAYS = ("update", "losses", "answer", "deployed")
"""What a method overrides that is more than terms to be added."""


def is_capturable(method: Distiller) -> bool:
    """Whether the method's own class declares its steps capturable."""
    return declares(method, "capturable")


def declares(method: Distiller, word: str) -> bool:
    """Whether the method's own class says so of itself; one that only inherits the word may do anything."""
    return word in vars(type(method)) and getattr(method, word)


Landmark = Literal["last_map", "last_stage", "stages", "second_stage", "preactivations", "pooled"]


class FeatureDistiller(Distiller):
    """A method that reads intermediate layers: by landmark where none are named, else by `named_modules()` name, in pairs.

    Where neither net's layers are named and one has more of a landmark, the first ones are paired and the others left out.
    """

    landmarks: tuple[Landmark, ...] = ("last_map",)
    teacher_landmarks: tuple[Landmark, ...] = ()
    """The teacher's, where they are not the student's."""

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
        """Raises `UnknownLayer` for models without landmarks, `ValueError` for lists of unequal length."""
        assert teacher is not None
        named = (self.student_layers, self.teacher_layers)
        ours = _by_landmark(student, self.landmarks) if named[0] is None else [named[0]]
        theirs = _by_landmark(teacher, self.teacher_landmarks or self.landmarks) if named[1] is None else [named[1]]
        if named == (None, None):
            both = list(zip(ours, theirs, strict=True))
            ours, theirs = [mine[: len(other)] for mine, other in both], [other[: len(mine)] for mine, other in both]
        self._pairs = _paired(list(chain(*ours)), list(chain(*theirs)))
        return [ours for ours, _ in self._pairs], [theirs for _, theirs in self._pairs]

    def pairs(self, student: Outputs, teacher: Outputs | None) -> list[tuple[Tensor, Tensor]]:
        """The features to compare, (student's, teacher's) per pair of layers."""
        assert teacher is not None
        return [(student.features[s], teacher.features[t]) for s, t in self._pairs]

    def only_pair(self, student: Outputs, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
        """The features of a method that compares one pair of layers; raises `ValueError` where several are named."""
        if len(pairs := self.pairs(student, teacher)) != 1:
            raise ValueError(f"this method compares one pair of layers: student_layers and teacher_layers name {len(pairs)}")
        return pairs[0]


def _paired(ours: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"student_layers and teacher_layers are pairs, but name {len(ours)} and {len(theirs)} layers")
    return list(zip(ours, theirs, strict=True))


def _by_landmark(model: nn.Module, landmarks: tuple[Landmark, ...]) -> list[list[str]]:
    """The layers of each landmark, shallow to deep; raises `UnknownLayer` for a landmark that the model does not have."""
    found = [getattr(landmarks_of(model), landmark) for landmark in landmarks]
    for landmark, names in zip(landmarks, found, strict=True):
        if not names:
            raise UnknownLayer(f"{type(model).__name__} declares no {landmark}, so its layers must be named")
    return [[names] if isinstance(names, str) else list(names) for names in found]


def probe_of(student: Capture, teacher: Capture | None, labels: Tensor, batch_size: int, shape: Shape) -> Probe:
    """What a method that joins these two networks may look at before training."""
    classify = classifier_of(teacher.model) if teacher and has_landmarks(teacher.model) else None
    return Probe(student.probe, teacher.probe if teacher else None, labels, batch_size, shape, classify)
