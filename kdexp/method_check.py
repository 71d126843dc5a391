"""What can be wrong with a method between two networks: it reads layers that don't run, or can't join what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import Part
from kdexp.data.shape import Shape
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, probe_of
from kdexp.errors import InvalidArguments, Problem, first_line
from kdexp.network.build import device_of, with_values
from kdexp.network.capture import Capture
from kdexp.network.footprint import Room
from kdexp.tasks.classification import same_answers

Ask = Callable[[nn.Module, tuple[str, ...], Shape], Capture]

LIKELY_BATCH = 64
"""Stands in for a batch size where none is known."""


def check_method(
    part: Part, node: dict[str, Any], nets: dict[str, Any], shape: Shape, batch_size: Any, ask: Ask, room: Room
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


def capture_sketch(network: nn.Module, layers: tuple[str, ...], shape: Shape) -> Capture:
    """The network and what it says of a probe batch, as tensors that have shapes but no values."""
    device = device_of(network)
    with torch.device(device):
        capture = Capture(network, layers, shape.probe(device))
    capture.probe = capture.probe.map(lambda values: values.to("meta"))
    capture.model = network if device.type == "meta" else deepcopy(network).to("meta")
    return capture


def sketch_method(
    distiller: Distiller,
    student: nn.Module,
    teacher: nn.Module | None,
    labels: Tensor,
    batch_size: int,
    shape: Shape,
    ask: Ask = capture_sketch,
) -> None:
    """Sets the method up between two sketched networks, its modules without values; raises `ValueError` if it can't be.

    `labels` [N] are those of the images to train on, or one image per class stands in for them.
    """
    ours, theirs = distiller.layers(student, teacher) if teacher else ([], [])
    pair = (ask(student, tuple(ours), shape), ask(teacher, tuple(theirs), shape) if teacher else None)
    with torch.device("meta"):
        distiller.setup(probe_of(*pair, labels, batch_size, shape))


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
