"""The roles of a run's learners: which nodes of the configuration make each of them, and which role teaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdexp.text.characters import one_line

Control = Literal[
    "random_teacher",
    "self_teacher",
    "label_smoothing",
    "from_scratch",
    "frozen_backbone",
    "strong_labels",
    "all_labels",
    "int8",
]
"""Rows on request: students that separate what a method teaches from its side effects, and a quantised one."""


@dataclass(frozen=True)
class RoleSpec:
    """The paths of the configuration nodes that make a learner, and how it differs from them."""

    model: str = "student"
    method: str = "distillation"
    optimizer: str = "optimizer"
    schedule: str = "schedule"
    teacher: str = "teacher"
    """The role that teaches it, if its method has a teacher."""
    untrained: bool = False
    from_scratch: bool = False
    """Ignores its checkpoint or pretrained weights."""
    frozen_backbone: bool = False
    """Trains only its classifier."""
    student_view: str = ""
    """The view of labelled images that it reads, if not that of its method."""
    all_labels: bool = False
    """Trains on all training images, where others have the labels of some."""
    pretrains: bool = False
    """Is trained without labels and without a classifier, as the start of another learner."""
    start: str = ""
    """The role of the pretrained learner that it starts from."""
    quantised: bool = False
    """Is not trained: its teacher's network with 8-bit integers."""

    @property
    def teaches(self) -> bool:
        """Whether it is a teacher, or a teacher's own teacher or member: trained with the teacher's settings, on its images."""
        return self.model.partition(".")[0] == "teacher"


_TEACHER = RoleSpec("teacher", "baseline", "teacher_optimizer", "teacher_schedule", teacher="")

PARTS = {
    "teacher": _TEACHER,
    "untrained_teacher": replace(_TEACHER, untrained=True, from_scratch=True),
    "baseline": RoleSpec(method="baseline"),
    "distilled": RoleSpec(),
    "pretraining": RoleSpec(
        "student",
        "pretraining",
        "pretraining.optimizer",
        "pretraining.schedule",
        teacher="",
        all_labels=True,
        pretrains=True,
    ),
    "pretrained": RoleSpec(method="baseline", from_scratch=True, start="pretraining"),
    "random_teacher": RoleSpec(teacher="untrained_teacher"),
    "self_teacher": RoleSpec(teacher="baseline"),
    "label_smoothing": RoleSpec(method="label_smoothing"),
    "from_scratch": RoleSpec(method="baseline", from_scratch=True),
    "frozen_backbone": RoleSpec(method="baseline", frozen_backbone=True),
    "strong_labels": RoleSpec(method="baseline", student_view="strong"),
    "all_labels": RoleSpec(method="baseline", all_labels=True),
    "int8": RoleSpec(teacher="distilled", quantised=True),
}

EXPLAINED = {
    "random_teacher": "random_teacher: the same distillation from the teacher's architecture with untrained weights.",
    "self_teacher": "self_teacher: the same distillation from the baseline.",
    "label_smoothing": "label_smoothing: no teacher; a little of each label is spread over all classes.",
    "from_scratch": "from_scratch: the baseline without the student's checkpoint or pretrained weights.",
    "frozen_backbone": "frozen_backbone: the baseline with only its classifier trained.",
    "strong_labels": "strong_labels: the baseline on strong views of the labelled images.",
    "all_labels": "all_labels: the baseline with the labels of all training images, for as many steps.",
    "int8": "int8: the distilled student in 8-bit integers; onnxruntime runs it on the CPU, PyTorch runs the others.",
    "pretrained": "pretrained: the baseline, started from a training without labels, with a new classifier.",
}
"""The remark under the table for each row that needs one."""


def role_spec(role: str, config: Mapping[str, Any]) -> RoleSpec:
    """The spec of a role: one of `PARTS`, or the path of a network that a teacher is made from.

    `teacher.teacher` taught the teacher, by the method under `teacher.distillation`; `teacher.members.0` is a member of an
    ensemble.
    """
    part = PARTS.get(role) or replace(_TEACHER, model=role)
    if part.teaches and not part.untrained and "distillation" in node_at(config, part.model):
        return replace(part, method=f"{part.model}.distillation", teacher=f"{part.model}.teacher")
    return part


def node_at(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The node of a configuration at a path such as `teacher.members.0`."""
    node: Any = config
    for name in path.split("."):
        node = node[int(name)] if isinstance(node, list) else node.get(name)
    return node


def option(config: Mapping[str, Any], path: str) -> str:
    """Name of the option that was chosen for the node at a path, on one line, for tables."""
    node = node_at(config, path)
    return one_line(node.get("name") or config["choices"].get(path) or node["_target_"].rpartition(".")[2])


def teacher_paths(config: Mapping[str, Any], path: str = "teacher") -> list[str]:
    """The path of the teacher's node (or another network's), then the paths of its members and its own teacher, recursively."""
    node = node_at(config, path)
    if not isinstance(node, dict):
        return [] if node is None else [path]
    members = node.get("members")
    inner = [f"{path}.members.{position}" for position in range(len(members))] if isinstance(members, list) else []
    return [path, *(found for name in (*inner, f"{path}.teacher") for found in teacher_paths(config, name))]


def sources_of(role: str, config: Mapping[str, Any]) -> list[str]:
    """The roles that a learner is made from: a teacher's members and its own teacher, or the pretrained one it starts from."""
    part = role_spec(role, config)
    if not part.teaches or part.untrained:
        return [part.start] if part.start else []
    members = node_at(config, part.model).get("members") or []
    of_members = [f"{part.model}.members.{position}" for position in range(len(members))]
    return [*of_members, part.teacher] if part.teacher else of_members


def seed_offset(path: str) -> int:
    """The number added to `teacher_seed` for the network at a path, so that equal members of an ensemble differ."""
    return sum(int(name) for name in path.split(".") if name.isdigit())
