"""Quick forward passes of networks without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class QuickBatchNorm(TorchFunctionMode):
    """Skips batch norms on the meta device: returns an empty tensor of the input's shape, if gradients are off.

    PyTorch decomposes a batch norm there into many operators written in Python, about 7 ms in all: most of a sketch's time.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Calls the function, or replaces it."""
        if func is F.batch_norm and _is_plain(*args, **(kwargs or {})):
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _is_plain(
    values: Tensor,
    running_mean: Tensor | None,
    _running_var: Tensor | None,
    _weight: Tensor | None = None,
    _bias: Tensor | None = None,
    training: bool = False,
    *_more: Any,
    **_named: Any,
) -> bool:
    """Whether a batch norm in evaluation mode, without gradients, has as many channels as its input on the meta device."""
    if training or torch.is_grad_enabled() or running_mean is None:
        return False
    return values.is_meta and len(running_mean) == values.shape[1]
