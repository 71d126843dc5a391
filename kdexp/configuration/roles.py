"""The rows of a run: what each learner is made of, and who teaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdexp.text.characters import one_line

Control = Literal["random_teacher", "self_teacher", "label_smoothing", "from_scratch", "frozen_backbone"]
"""Rows that are trained on request, to tell what a teacher's knowledge is worth from what merely comes with it."""


@dataclass(frozen=True)
class RoleSpec:
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

    @property
    def teaches(self) -> bool:
        """Whether it is a teacher, or something that a teacher is made of: trained with a teacher's settings, on its images."""
        return self.model.partition(".")[0] == "teacher"


_TEACHER = RoleSpec("teacher", "baseline", "teacher_optimizer", "teacher_schedule", teacher="")

PARTS = {
    "teacher": _TEACHER,
    "untrained_teacher": replace(_TEACHER, untrained=True, from_scratch=True),
    "baseline": RoleSpec(method="baseline"),
    "distilled": RoleSpec(),
    "random_teacher": RoleSpec(teacher="untrained_teacher"),
    "self_teacher": RoleSpec(teacher="baseline"),
    "label_smoothing": RoleSpec(method="label_smoothing"),
    "from_scratch": RoleSpec(method="baseline", from_scratch=True),
    "frozen_backbone": RoleSpec(method="baseline", frozen_backbone=True),
}

EXPLAINED = {
    "random_teacher": "random_teacher: the same distillation from the teacher's architecture with untrained weights.",
    "self_teacher": "self_teacher: the same distillation from the baseline.",
    "label_smoothing": "label_smoothing: no teacher; a little of each label is spread over all classes.",
    "from_scratch": "from_scratch: the baseline without the student's checkpoint or pretrained weights.",
    "frozen_backbone": "frozen_backbone: the baseline with its classifier alone trained.",
}
"""What the remarks under the table say of each control."""


def part_of(role: str, config: Mapping[str, Any]) -> RoleSpec:
    """What makes the learner in a role: one of `PARTS`, or what a teacher is made of, whose role is its node's path.

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
    """What a table calls the option that was chosen for the node at a path, on one line."""
    node = node_at(config, path)
    return one_line(node.get("name") or config["choices"].get(path) or node["_target_"].rpartition(".")[2])


def teacher_paths(config: Mapping[str, Any], path: str = "teacher") -> list[str]:
    """The path of the teacher's node, or of another network's, and those of what it is taught by or made of, where given."""
    node = node_at(config, path)
    if not isinstance(node, dict):
        return [] if node is None else [path]
    members = node.get("members")
    inner = [f"{path}.members.{place}" for place in range(len(members))] if isinstance(members, list) else []
    return [path, *(found for name in (*inner, f"{path}.teacher") for found in teacher_paths(config, name))]


def sources_of(role: str, config: Mapping[str, Any]) -> list[str]:
    """The roles of what a teacher is made of: its own teacher, or the members of an ensemble."""
    part = part_of(role, config)
    if not part.teaches or part.untrained:
        return []
    members = node_at(config, part.model).get("members") or []
    return [f"{part.model}.members.{place}" for place in range(len(members))] + ([part.teacher] if part.teacher else [])


def seed_offset(path: str) -> int:
    """What is added to `teacher_seed` for the network of a node, so that alike members of an ensemble differ."""
    return sum(int(name) for name in path.split(".") if name.isdigit())
