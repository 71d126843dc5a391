"""Measurements of a training loop: time, load, peak memory, synchronisations with the device, the machine's own speed."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from load import Load, LoadMeter

TRANSFERS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")
"""Tensor methods that make the host wait for the device."""


@dataclass
class Measured:
    """One run of one participant."""

    seconds: float
    load: Load
    peak_mb: float
    transfers: int


def measure(run: Callable[[], None], device: torch.device) -> Measured:
    """Runs it once and measures time, load and memory: of the process without its workers, on CUDA of the allocator."""
    gc.collect()
    forget_peak(device)
    with transfers_counted() as counted:
        meter = LoadMeter()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        load = meter.stop()
    return Measured(seconds, load, peak_mb(device), counted[0])


@contextmanager
def transfers_counted() -> Iterator[list[int]]:
    """Counts transfers of tensor values to the host, except in torch's optimizers, whose step counters are on the host."""
    counted = [0]

    def counting(name: str):
        original = getattr(torch.Tensor, name)

        def call(tensor, *args, **kwargs):
            if not sys._getframe(1).f_globals.get("__name__", "").startswith("torch."):
                counted[0] += 1
            return original(tensor, *args, **kwargs)

        return mock.patch.object(torch.Tensor, name, call)

    patches = [counting(name) for name in TRANSFERS]
    for patch in patches:
        patch.start()
    try:
        yield counted
    finally:
        for patch in patches:
            patch.stop()


def forget_peak(device: torch.device) -> None:
    """Resets the measurement of peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """Peak memory since `forget_peak`, in 10⁶ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 / 1e6


def peak_flops(device: torch.device, dtype: torch.dtype, enough: float = 0.1) -> float:
    """Floating-point operations per second of a large matrix product: the best of ten.

    Sizes double until one product takes `enough` seconds: a chip without bf16 units would take minutes for a large one.
    """
    size, largest = 256, 8192 if device.type == "cuda" else 2048
    while size < largest and _matmul_seconds(size, device, dtype) < enough:
        size *= 2
    return 2 * size**3 / min(_matmul_seconds(size, device, dtype) for _ in range(10))


def _matmul_seconds(size: int, device: torch.device, dtype: torch.dtype) -> float:
    matrix = torch.randn(size, size, device=device).to(dtype)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    matrix @ matrix
    synchronize()
    return time.perf_counter() - start
