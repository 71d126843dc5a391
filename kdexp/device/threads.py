"""How many CPU threads a training uses."""

from __future__ import annotations

import torch

WORTH_SHARING = 64_000_000
"""Multiply-adds of a batch's forward pass from which a second thread pays.

On two quiet cores it made steps above this 1.2 to 1.8 times faster, and those below 0.7 to 1.6 times
(`python benchmarks/threads.py`). Beside other processes, threads that wait for each other in such small steps take several
times as long as one.
"""

MOST = torch.get_num_threads()
"""PyTorch's own number: the cores of the machine, or what the environment allows."""


def pick_threads(multiply_adds: int) -> int:
    """PyTorch's own number of threads, or 1 for forward passes too small to share; `multiply_adds` are those of one batch."""
    return MOST if multiply_adds >= WORTH_SHARING else 1
