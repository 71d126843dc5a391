"""What a network costs: parameters, multiply-adds, bytes, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdexp.network.layers import evaluating
from kdexp.network.sketching import QuickBatchNorm


def parameter_count(module: nn.Module) -> int:
    """The number of trainable and frozen parameters; buffers are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def size_mb(module: nn.Module) -> float:
    """Parameters and buffers in MB (10⁶ bytes), at the width they are held in."""
    return size_bytes(module) / 1e6


def size_bytes(module: nn.Module) -> int:
    """Parameters and buffers in bytes, at the width they are held in."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def multiply_adds(module: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one forward pass on `image` [1, C, H, W] in linear layers and convolutions: half of torch's FLOPs."""
    with evaluating(module), FlopCounterMode(display=False) as counter, QuickBatchNorm():
        module(image)
    return counter.get_total_flops() // 2


def latency(module: nn.Module, image: Tensor, runs: int = 30) -> float:
    """Median seconds of one forward pass on `image` [N, C, H, W], after five runs to warm up."""
    with evaluating(module):
        return median_seconds(module, image, runs)


def median_seconds(answer: Callable[[Tensor], Tensor], image: Tensor, runs: int = 30) -> float:
    """Median seconds of one call on `image`, after five calls to warm up."""
    seconds = []
    for _ in range(runs + 5):
        start = time.perf_counter()
        answer(image)
        if image.device.type != "cpu":
            torch.get_device_module(image.device).synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[5:])
