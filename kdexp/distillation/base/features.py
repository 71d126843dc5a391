"""The base of methods that compare intermediate layers of two networks."""

from __future__ import annotations

from itertools import chain
from typing import Literal

from torch import Tensor, nn

from kdexp.configuration.arguments import Weight
from kdexp.distillation.base.distiller import Distiller
from kdexp.errors import UnknownLayer
from kdexp.network.capture import Outputs
from kdexp.network.landmarks import landmarks_of

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
