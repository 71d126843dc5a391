"""The cost of a network: parameters, multiply-adds, bytes, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
    with evaluating(module), FlopCounterMode(display=False) as counter, QuickPass(products=False):
        module(image)
    return counter.get_total_flops() // 2


def latency(module: nn.Module, image: Tensor, runs: int = 30) -> float:
    """Measures the median seconds of a forward pass on `image` [N, C, H, W] in evaluation mode, after five warm-up runs."""
    with evaluating(module):
        return median_seconds(module, image, runs)


def median_seconds(predict: Callable[[Tensor], Tensor], image: Tensor, runs: int = 30) -> float:
    """Measures the median seconds of a call on `image`, after five warm-up calls."""
    seconds = []
    for _ in range(runs + 5):
        start = time.perf_counter()
        predict(image)
        if image.device.type != "cpu":
            torch.get_device_module(image.device).synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[5:])
