"""What it takes to record work once and have the device do it again: on CUDA as a graph, launched at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
"""Operators for whose result the host waits."""


def record(work: Callable[[], None], generators: Sequence[torch.Generator | None]) -> Callable[[], None]:
    """Has CUDA record the work, which is not carried out by that, and returns what carries it out at every call.

    `generators` are all that it draws random numbers from; a replay draws the next ones of each.
    """
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch find generators by themselves, and say so
        for generator in generators:
            graph.register_generator_state(generator)
    # Threads that bring the next images here may go on; the outer stream is there since a graph may fail to end.
    recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
    with torch.cuda.stream(torch.cuda.current_stream()), recording:
        work()
    return graph.replay


class HostQuestions(TorchDispatchMode):
    """Collects the operators inside it that can't be recorded: the host waits for what they give, or they join two devices.

    Reading one of the tensors `but_of` does not count.
    """

    def __init__(self, but_of: Sequence[Tensor] = ()):
        super().__init__()
        self.names: list[str] = []
        self._but_of = but_of

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        asks = name in WAITING and not any(tensors[0] is tensor for tensor in self._but_of)
        if asks or len({tensor.device for tensor in tensors}) > 1:
            self.names.append(name)
        return result


@contextmanager
def buffers_in_place(*roots: nn.Module) -> Iterator[None]:
    """Buffers that are replaced inside keep their places: what they became is copied there."""
    owners = [module for root in roots for module in root.modules()]
    before = [(owner, name, buffer) for owner in owners for name, buffer in owner.named_buffers(recurse=False)]
    yield
    for owner, name, buffer in before:
        if (became := getattr(owner, name)) is not buffer:
            buffer.copy_(became.detach())
            setattr(owner, name, buffer)


@contextmanager
def beside(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """On that CUDA stream, after what is queued so far; without one, where everything else runs."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield


def join(streams: Sequence[torch.cuda.Stream | None]) -> None:
    """Has what is queued from here on wait for these streams."""
    for stream in streams:
        if stream is not None:
            torch.cuda.current_stream().wait_stream(stream)


class Stopwatch:
    """Runs in the device's time from when it is made to `stop`."""

    def __init__(self, device: torch.device):
        self._on_cuda = device.type == "cuda"
        self._start = self._now()

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self, learners: int) -> Callable[[], float]:
        """What tells each learner's share of the seconds, once the host has waited for the device."""
        start, end, on_cuda = self._start, self._now(), self._on_cuda
        return lambda: (start.elapsed_time(end) / 1000 if on_cuda else end - start) / learners
