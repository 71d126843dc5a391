"""Methods set up between networks without values, on PyTorch's meta device."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller, probe_of
from kdexp.network.build import device_of
from kdexp.network.capture import Capture
from kdexp.network.quick_pass import QuickPass

Ask = Callable[[nn.Module, tuple[str, ...], Shape], Capture]


def capture_sketch(network: nn.Module, layers: tuple[str, ...], shape: Shape) -> Capture:
    """The network and its outputs on a probe batch, as tensors without values."""
    device = device_of(network)
    with torch.device(device), QuickPass():
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
    unlabelled: int = 1,
) -> None:
    """Sets the method up between two networks without values; raises `ValueError` if that is impossible.

    `labels` [N] are those of the training images, or a stand-in with one image per class; `unlabelled` images have none.
    """
    student_layers, teacher_layers = distiller.layers(student, teacher)
    student_capture = ask(student, tuple(student_layers), shape)
    teacher_capture = ask(teacher, tuple(teacher_layers), shape) if teacher else None
    with torch.device("meta"):
        distiller.setup(probe_of(student_capture, teacher_capture, labels, batch_size, shape, unlabelled))
