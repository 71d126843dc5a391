"""Checks of a method between two networks: its layers exist and run, it can compare their outputs, what it deploys works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from kdexp.configuration.arguments import misfit
from kdexp.configuration.nodes import build
from kdexp.configuration.roles import PARTS, Control, RoleSpec
from kdexp.data.shape import Shape
from kdexp.deployment.formats import FORMATS
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, probe_of
from kdexp.errors import InvalidArguments, Problem, first_line, listed
from kdexp.network.build import starts_trained, with_values
from kdexp.network.capture import Capture
from kdexp.network.footprint import Room
from kdexp.tasks.classification import same_answers
from kdexp.training.sketch import Ask, sketch_method
from kdexp.validation.nodes import GIVE_START

LIKELY_BATCH = 64
"""Stands in for a batch size that is not known."""

Pair = Mapping[str, Any]
"""The networks of the `student` and its `teacher`; None for one that is missing."""


def check_method(
    part: RoleSpec, node: dict[str, Any], pair: Pair, shape: Shape, batch_size: Any, ask: Ask, room: Room
) -> Iterator[Problem]:
    """Whether the method can train this student from this teacher.

    The layers that it reads must exist, run, and have shapes that it can compare; the student and the method's own modules
    must fit into the `room`; and the network that it deploys must answer as the one that it trains.
    """
    distiller: Distiller = build(node)
    if not distiller.describe():
        yield Problem(part.method, "every weight is 0, so there is nothing to learn from")
    student, teacher = pair["student"], pair["teacher"] if distiller.uses_teacher else None
    if distiller.uses_teacher and teacher is None:
        yield Problem(part.teacher, "=None: this method learns from a teacher; choose one, or distillation=none")
        return
    try:
        size = batch_size if isinstance(batch_size, int) else LIKELY_BATCH
        sketch_method(distiller, student, teacher, torch.arange(shape.num_classes), size, shape, ask)
        if shortage := room.shortage(student, distiller):
            yield Problem(part.method, shortage)
        elif distiller.deploys_more and teacher:
            sentences = _deployed(build(node), with_values(student), with_values(teacher), shape)
            yield from (Problem(part.method, f"the network that it deploys {sentence}") for sentence in sentences)
    except ValueError as error:
        found = error.problems if isinstance(error, InvalidArguments) else [Problem("", str(error))]
        yield from (problem.under(part.method) for problem in found)


def _deployed(distiller: Distiller, student: nn.Module, teacher: nn.Module, shape: Shape) -> Iterator[str]:
    """What is wrong with the deployed network: it does not run, or gives other logits than those that are trained."""
    image = torch.rand(shape.probe("cpu", images=1).shape, generator=torch.Generator().manual_seed(0))
    layers = distiller.layers(student, teacher)
    ours, theirs = (Capture(network, names, image) for network, names in zip((student, teacher), layers, strict=True))
    with RandomStream(0, image.device):
        distiller.setup(probe_of(ours, theirs, torch.arange(shape.num_classes), LIKELY_BATCH, shape))
    distiller.eval()
    with torch.no_grad():
        trained = distiller.answer(ours.probe).logits
        try:
            logits = distiller.deployed(student, teacher)(image)
        except Exception as error:  # a network made from parts of two may raise anything
            yield f"does not run: {first_line(error)}"
            return
    if logits.shape[1:] != (shape.num_classes,):
        yield f"answers with {list(logits.shape)}, not with [N, {shape.num_classes}]"
    elif not same_answers(logits, trained):
        yield "gives other logits than the one that it trains; choose other student_layers"


def check_controls(
    config: dict[str, Any], pair: Pair, shape: Shape, batch_size: Any, ask: Ask, room: Room
) -> Iterator[Problem]:
    """Whether the control rows make sense with this student and this method."""
    controls, method = config["controls"], config["distillation"]
    if misfit(controls, list[Control]):
        return
    for control in {"from_scratch", "frozen_backbone"} & set(controls):
        if not starts_trained(config["student"]):
            yield Problem("controls", f"={control}: needs a student that starts from trained weights; {GIVE_START}")
    if "int8" in controls:
        if config["distillation"]["_target_"] == config["baseline"]["_target_"]:
            yield Problem("controls", "=int8: quantises the distilled student; choose a method: distillation=kd")
        if missing := FORMATS["onnx"].missing():
            yield Problem("controls", f'=int8: needs {listed(missing)}: pip install "kdexp[onnx]"')
    taught = {"random_teacher", "self_teacher"} & set(controls)
    if taught and not build(method).uses_teacher:
        yield Problem("controls", f"={min(taught)}: needs a method that learns from a teacher; choose one: distillation=kd")
    elif "self_teacher" in taught and pair["teacher"] is not None:
        itself = {"student": pair["student"], "teacher": pair["student"]}
        of_itself = check_method(PARTS["distilled"], method, itself, shape, batch_size, ask, room)
        yield from (Problem("controls", f"=self_teacher: {problem.sentence}") for problem in of_itself)
