"""The rows of a run: what each learner is made of, and who teaches it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Control = Literal["random_teacher", "self_teacher", "label_smoothing", "from_scratch", "frozen_backbone"]
"""Rows that are trained on request, to tell what a teacher's knowledge is worth from what merely comes with it."""


@dataclass(frozen=True)
class Part:
    """The nodes of the configuration that make a learner, and how it departs from them."""

    model: str = "student"
    method: str = "distillation"
    optimizer: str = "optimizer"
    schedule: str = "schedule"
    teacher: str = "teacher"
    """The role of the learner that teaches it, if its method has a teacher."""
    untrained: bool = False
    from_scratch: bool = False
    """Its checkpoint or pretrained weights are not used."""
    frozen_backbone: bool = False
    """Its classifier alone is trained."""


_TEACHER = Part("teacher", "baseline", "teacher_optimizer", "teacher_schedule")

PARTS = {
    "teacher": _TEACHER,
    "untrained_teacher": replace(_TEACHER, untrained=True, from_scratch=True),
    "baseline": Part(method="baseline"),
    "distilled": Part(),
    "random_teacher": Part(teacher="untrained_teacher"),
    "self_teacher": Part(teacher="baseline"),
    "label_smoothing": Part(method="label_smoothing"),
    "from_scratch": Part(method="baseline", from_scratch=True),
    "frozen_backbone": Part(method="baseline", frozen_backbone=True),
}

EXPLAINED = {
    "random_teacher": "random_teacher: the same distillation from the teacher's architecture with untrained weights.",
    "self_teacher": "self_teacher: the same distillation from the baseline.",
    "label_smoothing": "label_smoothing: no teacher; a little of each label is spread over all classes.",
    "from_scratch": "from_scratch: the baseline without the student's checkpoint or pretrained weights.",
    "frozen_backbone": "frozen_backbone: the baseline with its classifier alone trained.",
}
"""What the remarks under the table say of each control."""
