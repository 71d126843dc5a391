"""Work that is recorded once and repeated by the device: on CUDA a graph, launched at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
"""Operators whose result the host waits for."""


def record_graph(work: Callable[[], None], generators: Sequence[torch.Generator | None]) -> Callable[[], None]:
    """Has CUDA record the work without doing it; the function returned does it at every call.

    `generators` are all random generators that the work uses; each replay draws their next numbers. An error in the work is
    raised as it is, and afterwards nothing is being recorded any more.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch find generators themselves, and warn
        for generator in generators:
            graph.register_generator_state(generator)
    # Threads that fetch the next images may go on. The outer stream is restored even if ending the graph fails.
    recording = torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local")
    errors: list[BaseException] = []
    try:
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            try:
                work()
            except BaseException as error:
                errors.append(error)
                raise
    except BaseException:
        _abandon(graph, pool)
        if errors:  # ending the recording has then failed too, with an error that says less
            raise errors[0]  # noqa: B904
        raise
    return graph.replay


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """Has the allocator forget a recording that failed.

    If CUDA refuses to end the recording, older versions of torch leave the allocator serving it, and never give its pool back.
    Newer ones see to that in `reset`; allocating has then ended, and ending it again raises.
    """
    with suppress(RuntimeError):
        graph.reset()
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


class HostReads(TorchDispatchMode):
    """Collects operators that can't be recorded: the host waits for their result, or they join two devices.

    Reading one of the `allowed` tensors does not count.
    """

    def __init__(self, allowed: Sequence[Tensor] = ()):
        super().__init__()
        self.names: list[str] = []
        self._allowed = allowed

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps PyTorch from importing its compiler, which takes seconds, to exclude this class from it."""
        return False

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


OnStream = Callable[[torch.cuda.Stream | None], AbstractContextManager[None]]


@contextmanager
def side_by_side() -> Iterator[OnStream]:
    """Gives a context manager for work on a CUDA stream (None: the current one), after everything queued so far.

    At the end everything queued from then on waits for these streams, also if there was an error: a recording in which a stream
    was left alone can't be ended.
    """
    used: list[torch.cuda.Stream] = []

    @contextmanager
    def on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        stream.wait_stream(torch.cuda.current_stream())
        used.append(stream)
        with torch.cuda.stream(stream):
            yield

    try:
        yield on_stream
    except BaseException:
        with suppress(RuntimeError):
            _join(used)
        raise
    _join(used)


def _join(streams: Sequence[torch.cuda.Stream]) -> None:
    for stream in streams:
        torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def cudnn_benchmark(on: bool) -> Iterator[None]:
    """Inside, cuDNN tries all its algorithms on each new shape, and keeps the quickest (`on`), or tries nothing."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


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
