"""A bound on what a constructor may build: not more than a file of weights could fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.modules import module as registration

from kdexp.errors import BadCheckpoint

PARTS_PER_TENSOR, FREE_PARTS = 10, 1000
"""Modules, parameters and buffers for each tensor of the file, and besides: most modules hold no weights of their own."""
VALUES_PER_VALUE, FREE_VALUES = 4, 10**8
"""Of parameters and buffers, for each value of the file, and besides: some parts are replaced after they are made."""


@contextmanager
def as_small_as(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, building modules raises `BadCheckpoint` once they are many times as many, or as large, as these weights.

    Of a tensor that is too large nothing is written yet when it is registered, so that it has taken no memory.
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
