"""Methods set up between networks that have shapes but no values."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller, probe_of
from kdexp.network.build import device_of
from kdexp.network.capture import Capture
from kdexp.network.sketching import QuickBatchNorm

Ask = Callable[[nn.Module, tuple[str, ...], Shape], Capture]


def capture_sketch(network: nn.Module, layers: tuple[str, ...], shape: Shape) -> Capture:
    """The network and what it says of a probe batch, as tensors that have shapes but no values."""
    device = device_of(network)
    with torch.device(device), QuickBatchNorm():
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
