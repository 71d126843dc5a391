"""Work that is recorded once and repeated by the device: on CUDA a graph, launched at once."""

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
"""Operators whose result the host waits for."""


def record_graph(work: Callable[[], None], generators: Sequence[torch.Generator | None]) -> Callable[[], None]:
    """Has CUDA record the work without doing it; the function returned does it at every call.

    `generators` are all random generators that the work uses; each replay draws their next numbers.
    """
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch find generators themselves, and warn
        for generator in generators:
            graph.register_generator_state(generator)
    # Threads that fetch the next images may go on. The outer stream is restored even if ending the graph fails.
    recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
    with torch.cuda.stream(torch.cuda.current_stream()), recording:
        work()
    return graph.replay


class HostReads(TorchDispatchMode):
    """Collects operators that can't be recorded: the host waits for their result, or they join two devices.

    Reading one of the `allowed` tensors does not count.
    """

    def __init__(self, allowed: Sequence[Tensor] = ()):
        super().__init__()
        self.names: list[str] = []
        self._allowed = allowed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        waits = name in WAITING and not any(tensors[0] is tensor for tensor in self._allowed)
        if waits or len({tensor.device for tensor in tensors}) > 1:
            self.names.append(name)
        return result


@contextmanager
def buffers_in_place(*roots: nn.Module) -> Iterator[None]:
    """Buffers that are replaced inside keep their memory: the new values are copied there."""
    owners = [module for root in roots for module in root.modules()]
    before = [(owner, name, buffer) for owner in owners for name, buffer in owner.named_buffers(recurse=False)]
    yield
    for owner, name, buffer in before:
        if (new := getattr(owner, name)) is not buffer:
            buffer.copy_(new.detach())
            setattr(owner, name, buffer)


@contextmanager
def on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Work inside runs on that CUDA stream, after everything queued so far; without a stream, on the current one."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield


def join(streams: Sequence[torch.cuda.Stream | None]) -> None:
    """Everything queued from here on waits for these streams."""
    for stream in streams:
        if stream is not None:
            torch.cuda.current_stream().wait_stream(stream)


class Stopwatch:
    """Measures the device's time from its creation to `stop`."""

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
        """Returns a function that gives each learner's share of the seconds, once the host has waited for the device."""
        start, end, on_cuda = self._start, self._now(), self._on_cuda
        return lambda: (start.elapsed_time(end) / 1000 if on_cuda else end - start) / learners
