"""Finding layers by name, and running networks in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdexp.errors import UnknownLayer, did_you_mean, listed

INPUT = ".input"
"""Suffix of a module's name that means the module's input instead of its output."""


MOST_LISTED = 40
"""Most layers that are listed for an unknown name."""


def channels_first(output: Tensor) -> Tensor:
    """Returns a square map [N, H, W, C], such as Swin's, as [N, C, H, W]; anything else unchanged."""
    square = output.dim() == 4 and output.shape[1] == output.shape[2] != output.shape[3]
    return output.permute(0, 3, 1, 2) if square else output


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Returns the modules of those names, with or without `.input`; raises `UnknownLayer`, which lists the known names."""
    modules = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in modules and name.removesuffix(INPUT) not in modules:
            raise UnknownLayer(
                f"{type(model).__name__} has no layer {name!r};{did_you_mean(name, modules)} known: {_outline(list(modules))}"
            )
    return {name: modules[name if name in modules else name.removesuffix(INPUT)] for name in names}


def _outline(names: list[str]) -> str:
    """Lists names down to the deepest level at which there are at most `MOST_LISTED`, and counts those further inside."""
    shown = [name for name in names if "." not in name]
    for depth in range(1, 1 + max((name.count(".") for name in names), default=0)):
        deeper = [name for name in names if name.count(".") <= depth]
        shown = deeper if len(deeper) <= MOST_LISTED else shown
    inside = f" and {len(names) - len(shown)} inside these" if len(shown) < len(names) else ""
    return listed(shown) + inside


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the model into evaluation mode without gradients, and restores every module's mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
