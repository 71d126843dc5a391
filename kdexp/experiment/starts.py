"""Notes for the user at the start of a run: how it computes, and which checkpoints its networks start from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdexp.configuration.roles import node_at
from kdexp.data.shape import Shape
from kdexp.device.random import RandomStream
from kdexp.experiment.plan import Plan
from kdexp.network.build import build_network, start_at
from kdexp.network.checkpoint.fit import Start
from kdexp.network.headless import head_of

Node = Mapping[str, Any]


def load_start(path: str, node: Node, shape: Shape, classes: Sequence[str] | None) -> tuple[nn.Module, Start]:
    """Builds the network of a node and loads its checkpoint; raises `BadCheckpoint`."""
    with RandomStream(0, torch.device("cpu")):
        network = build_network(node, shape)
    return network, start_at(network, node["checkpoint"], node, classes, path)


def start_notes(plan: Plan) -> list[str]:
    """Notes for the user, a sentence each: what `auto` switched on, and checkpoints that a plan's learners start from."""
    parts = [plan.part(role) for role in plan.needed]
    paths = dict.fromkeys(part.model for part in parts if not part.from_scratch)
    arithmetic = [plan.precision.words] if plan.precision.words else []
    return [*arithmetic, *_unread(plan), *(note for path in paths for note in _notes(path, plan))]


def _unread(plan: Plan) -> list[str]:
    """Says that no learner reads the folder of images without classes, if there is one."""
    if plan.dataset.unlabelled is None or any(plan.spec(role).unlabelled for role in plan.needed):
        return []
    fix = "methods with few labels read them, such as fixmatch, and kd or feature_cosine with distillation.unlabelled_ratio=1"
    return [f"dataset.unlabelled_root={plan.dataset.unlabelled.name}: no learner of this run reads these images; {fix}"]


def _notes(path: str, plan: Plan) -> list[str]:
    node, classes = node_at(plan.config, path), plan.dataset.classes
    if not node.get("checkpoint"):
        return []
    key = json.dumps([path, node, vars(plan.shape), classes])
    if key not in plan.session.notes:
        _, start = load_start(path, node, plan.shape, classes)
        trained = path == "student" or head_of(node) == "probe"
        sentences = start.sentences() if trained else start.sentences_of_teacher()
        plan.session.notes[key] = [f"{path}: {sentence}" for sentence in sentences]
    return plan.session.notes[key]
