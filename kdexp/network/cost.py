"""The cost of a network: parameters, multiply-adds, bytes, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from kdexp.network.layers import evaluating
from kdexp.network.quick_pass import QuickPass


def parameter_count(module: nn.Module) -> int:
    """Counts trainable and frozen parameters, without buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_mb(module: nn.Module) -> float:
    """Returns the size of parameters and buffers in MB (10⁶ bytes), in their own types."""
    return size_bytes(module) / 1e6


def size_bytes(module: nn.Module) -> int:
    """Returns the size of parameters and buffers in bytes, in their own types."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def multiply_adds(module: nn.Module, image: Tensor) -> int:
    """Counts the multiply-adds of linear layers and convolutions in one forward pass on `image` [1, C, H, W]."""
    with evaluating(module), QuickPass() as quick:
        module(image)
    if quick.counts_all(module):
        return quick.multiply_adds
    from torch.utils.flop_counter import FlopCounterMode  # imports triton where that is installed

    with evaluating(module), FlopCounterMode(display=False) as counter, QuickPass(products=False):
        module(image)
    return counter.get_total_flops() // 2


Predict = Callable[[Tensor], object]


def latencies(modules: Sequence[nn.Module], image: Tensor) -> list[float]:
    """Measures the median seconds of a forward pass of each module on `image` [N, C, H, W], in evaluation mode."""
    with ExitStack() as modes:
        for module in modules:
            modes.enter_context(evaluating(module))
        return median_seconds(modules, image)


def median_seconds(predicts: Sequence[Predict], image: Tensor, runs: int = 30) -> list[float]:
    """Measures the median seconds of each call on `image`, after five warm-up calls.

    The calls take turns, so that whatever else the machine does meanwhile slows all of them alike.
    """
    seconds: list[list[float]] = [[] for _ in predicts]
    for _ in range(runs + 5):
        for predict, times in zip(predicts, seconds, strict=True):
            times.append(_seconds(predict, image))
    return [statistics.median(times[5:]) for times in seconds]


def _seconds(predict: Predict, image: Tensor) -> float:
    start = time.perf_counter()
    predict(image)
    if image.device.type != "cpu":
        torch.get_device_module(image.device).synchronize()
    return time.perf_counter() - start
