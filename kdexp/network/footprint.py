"""Lower bounds for the memory of networks and their training, counted on networks without values."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdexp.data.shape import Shape
from kdexp.device.memory import size_text
from kdexp.network.build import device_of
from kdexp.network.cost import size_bytes
from kdexp.network.layers import evaluating
from kdexp.network.quick_pass import QuickPass


@dataclass(frozen=True)
class Room:
    """The memory that a network has to fit into: `free` bytes for `copies` times its parameters.

    One copy for inference; in training also the gradients, and the moments of the optimizer.
    """

    free: int
    copies: int = 1

    def shortage(self, network: nn.Module, method: nn.Module | None = None) -> str:
        """Returns why the network (with its method's modules, if given) does not fit, or an empty string."""
        needed = self.copies * sum(size_bytes(module) for module in (network, method) if module is not None)
        if needed <= self.free:
            return ""
        what = "its weights take" if method is None else "with the modules that the method adds, the student takes"
        if self.copies > 1 and method is None:
            what = "with gradients and optimizer state it takes"
        fix = "choose a smaller network" + (" or batch_size" if method is not None else "")
        return f"{what} {size_text(needed)} of memory, but {size_text(self.free)} are free; {fix}"


BOUND_PER_NUMBER = 32
"""Bytes per number that a function returns: 8 for the largest type, times 4 for what it may store besides."""

ROOMY = Room(sys.maxsize)
"""Room for any network."""


def batch_shortage(network: nn.Module, shape: Shape, images: int, copies: int, free: int, width: int = 4) -> str:
    """Returns why training on batches of that many images does not fit into `free` bytes, or an empty string.

    `width` is the number of bytes per stored activation.
    """
    weights = copies * size_bytes(network)
    if weights + _most_activation_bytes(network, shape, images) <= free:
        return ""
    needed = weights + activation_bytes(network, shape, images) * width // 4
    if needed <= free:
        return ""
    return (
        f"training on batches of {images} images takes {size_text(needed)} of memory, but {size_text(free)} are free; "
        "choose a smaller batch_size or network"
    )


def _most_activation_bytes(network: nn.Module, shape: Shape, images: int) -> int:
    """A bound for `activation_bytes` that is quickly found, from what the functions of a forward pass return for one image."""
    with suppress(Exception), evaluating(network), QuickPass() as quick:  # a failure here is reported by the training
        image = shape.probe(device_of(network), images=1)
        network(image)
        return images * BOUND_PER_NUMBER * (image.numel() + quick.elements)
    return sys.maxsize


def activation_bytes(network: nn.Module, shape: Shape, images: int) -> int:
    """Counts the bytes that a forward pass stores for the backward pass; 0 unless the network is on the meta device."""
    if device_of(network).type != "meta":
        return 0
    own = {value.untyped_storage()._cdata for value in (*network.parameters(), *network.buffers())}
    sizes: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with suppress(Exception), hooks, torch.enable_grad():  # a failure here is reported by the training
        network(shape.probe("meta", images=images))
    return sum(sizes.values())
