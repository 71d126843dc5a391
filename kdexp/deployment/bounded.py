"""Bounds what a constructor may build by the size of the weights that are to fill it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.modules import module as registration

from kdexp.errors import BadCheckpoint

PARTS_PER_TENSOR, FREE_PARTS = 10, 1000
"""Allowed modules, parameters and buffers: per tensor of the file, plus a constant, as most modules have no weights."""
VALUES_PER_VALUE, FREE_VALUES = 4, 10**8
"""Allowed values of parameters and buffers: per value of the file, plus a constant, as some parts are replaced later."""


@contextmanager
def as_small_as(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Makes building modules raise `BadCheckpoint` once they are many times more numerous or larger than these weights.

    A tensor that is too large has not been written to when it is registered, so it has taken no memory yet.
    """
    parts = FREE_PARTS + PARTS_PER_TENSOR * len(weights)
    values = FREE_VALUES + VALUES_PER_VALUE * sum(value.numel() for value in weights.values())

    def count(_module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, values
        parts -= 1
        values -= part.numel() if isinstance(part, Tensor) else 0
        if parts < 0 or values < 0:
            raise BadCheckpoint(f"the described network is far larger than its {len(weights)} stored tensors ({name})")

    with ExitStack() as hooks:
        for kind in ("parameter", "buffer", "module"):
            hooks.callback(getattr(registration, f"register_module_{kind}_registration_hook")(count).remove)
        yield
