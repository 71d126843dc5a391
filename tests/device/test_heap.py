import resource

import pytest
import torch
from processes import CONTEXT

from kdexp.device import heap
from kdexp.device.heap import retain_freed_memory


def pages_mapped_by(steps: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(2**24)  # 64 MB, which glibc never serves from its heap by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def count_pages(counts) -> None:
    """Sends how many pages twenty steps map while freed memory is retained."""
    with retain_freed_memory():
        pages_mapped_by(20)
        counts.send(pages_mapped_by(20))


@pytest.mark.slow
@pytest.mark.skipif(heap.platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_retained():
    # In a process of its own: what other tests left in the heap decides what is mapped.
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=count_pages, args=(there,))
    process.start()
    there.close()
    assert here.recv() < 20 * 2**26 / resource.getpagesize() / 2, "unmapped memory would be mapped anew in each step"
    process.join()


def test_memory_is_returned_afterwards_even_after_an_error():
    with pytest.raises(RuntimeError), retain_freed_memory():
        held = resident()
        torch.ones(2**25)
        raise RuntimeError
    assert resident() - held < 2**26


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def test_no_effect_without_glibc(monkeypatch):
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    with retain_freed_memory():
        pass
