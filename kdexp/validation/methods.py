"""What can be wrong with a method between two networks: it reads layers that don't run, or can't join what they give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import RoleSpec
from kdexp.data.shape import Shape
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, probe_of
from kdexp.errors import InvalidArguments, Problem, first_line
from kdexp.network.build import with_values
from kdexp.network.capture import Capture
from kdexp.network.footprint import Room
from kdexp.tasks.classification import same_answers
from kdexp.training.sketch import Ask, sketch_method

LIKELY_BATCH = 64
"""Stands in for a batch size where none is known."""


def check_method(
    part: RoleSpec, node: dict[str, Any], nets: dict[str, Any], shape: Shape, batch_size: Any, ask: Ask, room: Room
) -> Iterator[Problem]:
    """Whether the method can join these two networks: its layers exist, run, and have shapes that it can compare.

    And whether the student and the method's own modules fit into the `room`.
    """
    distiller: Distiller = build(node)
    if not distiller.describe():
        yield Problem(part.method, "every weight is 0, so there is nothing to learn from")
    student, teacher = nets["student"], nets["teacher"] if distiller.uses_teacher else None
    if distiller.uses_teacher and teacher is None:
        yield Problem(part.teacher, "=None: this method learns from a teacher; choose one, or distillation=none")
        return
    try:
        size = batch_size if isinstance(batch_size, int) else LIKELY_BATCH
        sketch_method(distiller, student, teacher, torch.arange(shape.num_classes), size, shape, ask)
        if shortage := room.shortage(student, distiller):
            yield Problem(part.method, shortage)
        elif distiller.deploys_more and teacher:
            complaints = _deployed(build(node), with_values(student), with_values(teacher), shape)
            yield from (Problem(part.method, f"what it deploys {complaint}") for complaint in complaints)
    except ValueError as error:
        found = error.problems if isinstance(error, InvalidArguments) else [Problem("", str(error))]
        yield from (problem.under(part.method) for problem in found)


def _deployed(distiller: Distiller, student: nn.Module, teacher: nn.Module, shape: Shape) -> Iterator[str]:
    """What can be said against what the method deploys: that it gives no logits, or not those that its losses look at."""
    image = torch.rand(shape.probe("cpu", images=1).shape, generator=torch.Generator().manual_seed(0))
    layers = distiller.layers(student, teacher)
    ours, theirs = (Capture(net, names, image) for net, names in zip((student, teacher), layers, strict=True))
    with RandomStream(0, image.device):
        distiller.setup(probe_of(ours, theirs, torch.arange(shape.num_classes), LIKELY_BATCH, shape))
    distiller.eval()
    with torch.no_grad():
        trained = distiller.answer(ours.probe).logits
        try:
            logits = distiller.deployed(student, teacher)(image)
        except Exception as error:  # a network put together of two may fail anyhow
            yield f"does not run: {first_line(error)}"
            return
    if logits.shape[1:] != (shape.num_classes,):
        yield f"answers with {list(logits.shape)}, not with [N, {shape.num_classes}]"
    elif not same_answers(logits, trained):
        yield "does not answer as what it trains; choose other student_layers"
