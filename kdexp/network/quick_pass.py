"""Quick forward passes of networks without values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdexp.network.quick_rules import OTHERS, PRODUCTS, WITHOUT_PRODUCTS, Unusual


class QuickPass(TorchFunctionMode):
    """Takes the outputs of usual functions on the meta device from rules, if gradients are off; counts multiply-adds.

    PyTorch decomposes most of these functions into operators written in Python: a batch norm takes 7 ms, and the first function
    imports PyTorch's compiler, which takes two seconds. Without `products`, linear layers and convolutions are left to PyTorch.
    """

    def __init__(self, *, products: bool = True):
        super().__init__()
        self._rules = OTHERS | PRODUCTS if products else OTHERS
        self._weights: set[int] = set()
        self._all_known = True
        self.multiply_adds = 0
        """Those of linear layers and convolutions, on any device."""
        self.elements = 0
        """Numbers in the tensors that functions returned."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Calls the function, or replaces it."""
        kwargs = kwargs or {}
        result = None
        if func in self._rules and _is_plain(*args, *kwargs.values()):
            with suppress(Unusual, TypeError):  # `TypeError`: for arguments that the rule does not know
                result = self._rules[func](*args, **kwargs)
        if result is None:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self.elements += result.numel()
        if func in PRODUCTS:
            self._count(result, *args, **kwargs)
        elif func not in OTHERS and func not in WITHOUT_PRODUCTS:
            self._all_known = False
        return result

    def _count(self, result: Tensor, _input: Tensor, weight: Tensor, *_more: Any, **_named: Any) -> None:
        self.multiply_adds += result.numel() * prod(weight.shape[1:])
        self._weights.add(id(weight))

    def counts_all(self, network: nn.Module) -> bool:
        """Whether `multiply_adds` are those of all layers: no function but known ones was called, and every matrix was used."""
        return self._all_known and {id(value) for value in network.parameters() if value.dim() > 1} <= self._weights


def _is_plain(*arguments: Any) -> bool:
    """Whether all tensors among the arguments are row-major ones on the meta device, and gradients are off."""
    values = [value for argument in arguments for value in (argument if isinstance(argument, list | tuple) else [argument])]
    tensors = [value for value in values if isinstance(value, Tensor)]
    return not torch.is_grad_enabled() and all(tensor.is_meta and _is_row_major(tensor) for tensor in tensors)


def _is_row_major(tensor: Tensor) -> bool:
    """Whether what PyTorch computes from it is contiguous: it is so itself, or it is a part of such images, such as a chunk."""
    if tensor.is_contiguous():
        return True
    strides = tensor.stride()
    return tensor.dim() == 4 and min(tensor.shape) > 1 and strides[-1] > 0 and all(a > b for a, b in pairwise(strides))
