# ruff: noqa: ARG001 (a rule has the arguments of its function)
"""Outputs of usual functions of networks for row-major tensors on the meta device, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import init


class Unusual(Exception):
    """Raised by a rule for a call that is left to PyTorch, which may refuse it."""


def _require(fits: bool) -> None:
    if not fits:
        raise Unusual


def _pair(value: Any) -> tuple[int, int]:
    """Both numbers of an argument of a convolution or a pooling, which gives one or two."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    _require(len(pair) == 2 and all(isinstance(number, int) and number >= 0 for number in pair))
    return pair


def _window(image: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> list[int]:
    """Height and width of the output of a convolution or a pooling."""
    _require(image.dim() == 4 and image.numel() > 0)
    arguments = zip(image.shape[2:], *map(_pair, (kernel, stride, padding, dilation)), strict=True)
    sides = [(side + 2 * pad - spread * (size - 1) - 1) // max(step, 1) + 1 for side, size, step, pad, spread in arguments]
    _require(min(sides) > 0 and min(*_pair(kernel), *_pair(stride), *_pair(dilation)) > 0)
    return sides


def _weighs(image: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Requires that a layer's tensors have one type, and as many biases as outputs."""
    _require(image.dtype == weight.dtype and (bias is None or (bias.dtype, bias.shape) == (weight.dtype, weight.shape[:1])))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    _require(weight.dim() == 4 and input.dim() == 4 and groups > 0)
    _require(input.shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0)
    _weighs(input, weight, bias)
    return input.new_empty(len(input), len(weight), *_window(input, tuple(weight.shape[2:]), stride, padding, dilation))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _require(weight.dim() == 2 and input.dim() > 0 and input.shape[-1] == weight.shape[1])
    _weighs(input, weight, bias)
    return input.new_empty(*input.shape[:-1], len(weight))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    _require(not training and running_mean is not None and len(running_mean) == input.shape[1])
    return _like(input)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    return input.zero_() if inplace else _like(input)  # what is overwritten must be seen to be overwritten


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return relu(input, inplace)


def _like(values: Tensor) -> Tensor:
    return values.new_empty(values.shape)  # `empty_like` would import PyTorch's compiler


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    _require(not return_indices)
    return _pooled(input, kernel_size, stride, padding, ceil_mode, dilation)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    _require(divisor_override != 0)
    return _pooled(input, kernel_size, stride, padding, ceil_mode)


def _pooled(image: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, dilation: Any = 1) -> Tensor:
    _require(not ceil_mode and all(2 * pad <= size for pad, size in zip(_pair(padding), _pair(kernel), strict=True)))
    return image.new_empty(*image.shape[:2], *_window(image, kernel, kernel if stride is None else stride, padding, dilation))


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    sides = _pair(output_size)
    _require(input.dim() == 4 and input.numel() > 0 and min(sides) > 0)
    return input.new_empty(*input.shape[:2], *sides)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    axes, count = [dim] if isinstance(dim, int) else list(dim or ()), input.dim()
    _require(bool(axes) and input.is_floating_point() and all(-count <= axis < count for axis in axes))
    reduced = {axis % count for axis in axes}
    _require(len(reduced) == len(axes))
    return input.new_empty(
        [1 if axis in reduced else side for axis, side in enumerate(input.shape) if keepdim or axis not in reduced]
    )


def add(input: Tensor, other: Any) -> Tensor:
    _same(input, other)
    return _like(input)


def add_(input: Tensor, other: Any) -> Tensor:
    _same(input, other)
    return input.zero_()


def _same(values: Tensor, others: Any) -> None:
    """Requires that both are tensors of one shape and type."""
    _require(isinstance(others, Tensor) and (values.shape, values.dtype) == (others.shape, others.dtype))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    first, count = tensors[0], tensors[0].dim()
    _require(-count <= dim < count and all((other.dtype, other.dim()) == (first.dtype, count) for other in tensors))
    before, after = first.shape[: dim % count], first.shape[dim % count + 1 :]
    _require(all((other.shape[: dim % count], other.shape[dim % count + 1 :]) == (before, after) for other in tensors))
    return first.new_empty(*before, sum(other.shape[dim] for other in tensors), *after)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    return tensor.zero_()


PRODUCTS: dict[Callable, Callable[..., Tensor]] = {F.conv2d: conv2d, F.linear: linear}
"""Rules for functions that multiply by a weight, their second argument."""

OTHERS: dict[Callable, Callable[..., Tensor]] = {
    F.batch_norm: batch_norm,
    F.relu: relu,
    F.leaky_relu: leaky_relu,
    F.max_pool2d: max_pool2d,
    F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    Tensor.mean: mean,
    Tensor.add: add,
    Tensor.add_: add_,
    torch.cat: cat,
    init.normal_: normal_,
    Tensor.normal_: normal_,
}
"""Rules for functions without products."""

WITHOUT_PRODUCTS: set[Callable] = {
    *(getattr(torch, name) for name in ("zeros", "empty", "flatten", "add", "mul", "sigmoid", "maximum", "relu")),
    *(getattr(F, name) for name in ("dropout", "pad", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "gelu")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "is_contiguous", "contiguous", "clone", "detach", "float")),
    *(getattr(Tensor, name) for name in ("view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze")),
    *(getattr(Tensor, name) for name in ("unsqueeze", "chunk", "split", "mul", "mul_", "sub", "div", "zero_", "__getitem__")),
    *(getattr(Tensor, name).__get__ for name in ("shape", "device", "dtype", "ndim", "is_cuda", "requires_grad", "grad_fn")),
}
"""Further functions without products, left to PyTorch."""
