"""Checks of `pretraining`: its values and nodes, the student's network, and the views that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from kdexp.configuration.arguments import problems
from kdexp.configuration.nodes import build
from kdexp.configuration.roles import PARTS
from kdexp.data.shape import Shape
from kdexp.errors import Problem
from kdexp.network.footprint import Room
from kdexp.pretraining.settings import NODES, PretrainingSettings, is_chosen, method_of, settings_of
from kdexp.training.sketch import Ask
from kdexp.validation.methods import check_method
from kdexp.validation.views import TrainingImages, check_views

PATH = "pretraining"
CheckNode = Callable[[str, Any, bool], list[Problem]]


def check_nodes(node: Any, check_node: CheckNode) -> Iterator[Problem]:
    """Problems of the method, of the optimizer and schedule, and of the values that belong to none of them."""
    if not isinstance(node, Mapping) or not is_chosen({PATH: node}):
        yield from check_node(PATH, node, False)
        return
    yield from check_node(PATH, method_of(node), False)
    yield from (problem.under(PATH) for problem in problems(PretrainingSettings, settings_of(node)))
    for name in NODES:
        yield from check_node(f"{PATH}.{name}", node.get(name), False)


def check_pretraining(
    config: Mapping[str, Any], student: nn.Module, images: TrainingImages, shape: Shape, ask: Ask, room: Room
) -> Iterator[Problem]:
    """Problems of a valid node with the images, the student's network and several ranks."""
    node = config[PATH]
    method = method_of(node)
    yield from check_views(build(method), PATH, images)
    if config["student"].get("frozen_backbone"):
        sentence = (
            "=True: pretraining trains the backbone; pretraining.frozen_backbone=true trains the classifier alone afterwards"
        )
        yield Problem("student.frozen_backbone", sentence)
    pair = {"student": student, "teacher": None}
    yield from check_method(PARTS[PATH], method, pair, shape, node["batch_size"], ask, room)
