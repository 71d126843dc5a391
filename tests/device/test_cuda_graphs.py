"""Recordings that fail, on a CUDA that is played: what CUDA itself does is tested in test_gpu.py."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from kdexp.device.cuda_graphs import cudnn_benchmark, record_graph, side_by_side


class Played:
    """Stands in for torch.cuda: an allocator that serves recordings, and streams that have to be joined."""

    def __init__(self, monkeypatch, *, ends=True, reset_ends=False):
        self.serving, self.pools, self.forked, self.waits = set(), set(), set(), []
        self.ends, self.reset_ends = ends, reset_ends
        played = self

        class Graph:
            def register_generator_state(self, generator):
                pass

            def reset(self):
                if played.reset_ends:
                    played.serving.clear()
                    played.pools.clear()

            def replay(self):
                pass

        @contextmanager
        def recording(graph, pool, capture_error_mode):
            self.serving.add(pool)
            self.pools.add(pool)
            try:
                yield
            finally:
                if not self.ends or self.forked:
                    raise RuntimeError("operation failed due to a previous error during capture")
                self.serving.discard(pool)

        def end(device, pool):
            if pool not in self.serving:
                raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
            self.serving.remove(pool)

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", recording)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: self.pools.remove(pool), raising=False)

    def wait_stream(self, stream):
        self.waits.append(stream)
        self.forked.discard(stream)


class Stream:
    def __init__(self, played):
        self.played = played

    def wait_stream(self, _):
        self.played.forked.add(self)


def failing():
    raise ValueError("the method's own error")


@pytest.mark.parametrize("reset_ends", [True, False], ids=["newer torch", "older torch"])
def test_the_allocator_is_not_left_serving_a_failed_recording(monkeypatch, reset_ends):
    played = Played(monkeypatch, ends=False, reset_ends=reset_ends)
    with pytest.raises(ValueError, match="^the method's own error$"):
        record_graph(failing, [None])
    assert not played.serving and not played.pools


def test_a_recording_that_ends_although_its_work_failed_is_not_ended_twice(monkeypatch):
    played = Played(monkeypatch)
    with pytest.raises(ValueError, match="^the method's own error$"):
        record_graph(failing, [None])
    assert not played.serving


def test_ctrl_c_while_recording_stays_ctrl_c(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    Played(monkeypatch, ends=False)
    with pytest.raises(KeyboardInterrupt):
        record_graph(interrupted, [None])


def test_an_error_of_the_recording_alone_is_reported(monkeypatch):
    played = Played(monkeypatch, ends=False)
    with pytest.raises(RuntimeError, match="due to a previous error during capture"):
        record_graph(lambda: None, [None])
    assert not played.serving and not played.pools


@pytest.mark.parametrize("fails", [True, False])
def test_streams_are_joined_so_that_the_recording_can_end(monkeypatch, fails):
    played = Played(monkeypatch)
    first, second, unused = (Stream(played) for _ in range(3))

    def work():
        with side_by_side() as on_stream:
            with on_stream(first):
                pass
            with on_stream(None), on_stream(second):
                if fails:
                    failing()

    with pytest.raises(ValueError, match="own error") if fails else nullcontext():
        assert callable(record_graph(work, [None]))
    assert played.waits == [first, second] and unused not in played.waits and not played.forked


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_switch_of_cudnn_is_put_back(monkeypatch, before, wanted):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    with pytest.raises(ValueError, match="own error"), cudnn_benchmark(wanted):
        assert torch.backends.cudnn.benchmark == wanted
        failing()
    assert torch.backends.cudnn.benchmark == before


def test_the_private_functions_that_end_an_allocation_exist():
    names = ["_cuda_endAllocateToPool", "_cuda_releasePool"]
    if torch.version.cuda is None:
        pytest.skip("this PyTorch was built without CUDA")
    assert [name for name in names if not hasattr(torch._C, name)] == []
