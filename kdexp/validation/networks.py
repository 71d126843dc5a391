"""Checks of a network: it can be built, fits into memory, runs on the images, gives logits, and has one start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdexp.data.shape import Shape
from kdexp.errors import InvalidArguments, Problem, first_line, refusals
from kdexp.network.build import device_of, on_meta, sketch_network
from kdexp.network.footprint import ROOMY, Room
from kdexp.network.quick_pass import QuickPass

LARGEST = 256
"""Pixels up to which a size is searched that a network accepts."""


def check_network(
    role: str, node: Mapping[str, Any], shape: Shape, dataset: Mapping[str, Any], room: Room = ROOMY
) -> tuple[nn.Module | None, list[Problem]]:
    """The network in evaluation mode, or None if it can't be used; and its problems.

    `node` and `dataset` are nodes whose arguments are valid one by one. The network is on the meta device where it runs
    without values; one that does not fit into the `room` is not run.
    """
    try:
        network = sketch_network(node, shape, room.shortage)
        if shortage := room.shortage(network):
            return None, [Problem(role, shortage)]
        with torch.no_grad(), QuickPass():
            logits = network(shape.probe(device_of(network)))
    except Exception as error:  # a user's network may raise anything
        if isinstance(error, InvalidArguments) or error.__cause__:
            return None, [problem.under(role) for problem in refusals(error)]
        return None, [Problem(role, _does_not_run(role, node, shape, dataset, error))]
    if sentence := _no_logits(logits, shape.num_classes):
        return None, [Problem(role, sentence)]
    return network, list(_two_starts(role, node, network))


def _no_logits(output: object, num_classes: int) -> str:
    """Why an output is not logits [N, K], or an empty string."""
    if not isinstance(output, Tensor):
        return f"answers with a {type(output).__name__}, not with a tensor of logits [N, {num_classes}]"
    if output.dim() != 2:
        sizes = ", ".join(["N", *map(str, output.shape[1:])])
        return f"answers with a tensor [{sizes}], not with logits [N, {num_classes}]"
    if output.shape[1] != num_classes:
        return f"gives {output.shape[1]} logits per image, but the data have {num_classes} classes"
    return ""


def _two_starts(role: str, node: Mapping[str, Any], network: nn.Module) -> Iterator[Problem]:
    checkpoint = node.get("checkpoint")
    if checkpoint and hasattr(network, "published"):
        yield Problem(f"{role}.checkpoint", f"={checkpoint!r}: {role}.weights is another start; set one of them to null")


def _does_not_run(role: str, node: Mapping[str, Any], shape: Shape, dataset: Mapping[str, Any], error: Exception) -> str:
    """Why a network fails on the images, and what would help."""
    size = smallest_image(node, shape)
    if size is None:
        images = f"{shape.in_channels}×{shape.image_size}×{shape.image_size}"
        return f"does not run on this data set's {images} images: {first_line(error)}"
    fixes = [f"dataset.image_size={size}"] if "image_size" in dataset else []
    fixes += [f"{role}.stem=small"] if "stem" in node and _runs(dict(node) | {"stem": "small"}, shape) else []
    name = node.get("name") or node["_target_"].rpartition(".")[2]
    fix = f"try {' or '.join(fixes)}" if fixes else "choose another network"
    return f"{name} needs images of at least {size}×{size}, not {shape.image_size}×{shape.image_size}; {fix}"


def smallest_image(node: Mapping[str, Any], shape: Shape) -> int | None:
    """The smallest image size that the network accepts, found by bisection; None if it accepts none up to `LARGEST`.

    The network must fail on images of the given shape.
    """
    too_small, enough = shape.image_size, LARGEST
    if too_small >= enough or not _runs(node, replace(shape, image_size=enough)):
        return None
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if _runs(node, replace(shape, image_size=middle)):
            enough = middle
        else:
            too_small = middle
    return enough


def _runs(node: Mapping[str, Any], shape: Shape) -> bool:
    try:
        on_meta(node, shape)
    except Exception:
        return False
    return True
