"""Free memory, and sizes as text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int:
    """Bytes available to new tensors on the device, including memory that PyTorch has reserved and does not use.

    On CUDA no more than `torch.cuda.set_per_process_memory_fraction` leaves this process.
    """
    if device.type != "cuda":
        return available_memory()
    free, total = torch.cuda.mem_get_info(device)
    reserved, share = torch.cuda.memory_reserved(device), torch.cuda.get_per_process_memory_fraction(device)
    return max(0, min(free, int(share * total) - reserved)) + reserved - torch.cuda.memory_allocated(device)


def available_memory() -> int:
    """Bytes available to new arrays: on Linux as the system and its control groups say, elsewhere all physical memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines())
        return min([int(lines["MemAvailable"].split()[0]) * 1024, *_left_by_control_groups()])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group (version 2) of this process leaves it; containers and batch systems limit memory by these."""
    names = [line.removeprefix("0::/") for line in own.read_text("utf-8").splitlines() if line.startswith("0::/")]
    for group in (folder for name in names for folder in (root / name, *(root / name).parents) if folder.is_relative_to(root)):
        limit = group / "memory.max"
        if limit.is_file() and (text := limit.read_text("utf-8").strip()) != "max":
            pages = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
            used = int((group / "memory.current").read_text("utf-8")) - int(pages["inactive_file"])
            yield max(0, int(text) - used)


def size_text(size: int) -> str:
    """Bytes with three digits, such as `369 MB`; MB = 10⁶ bytes."""
    scale, unit = next(
        (pair for pair in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= pair[0]), (1, "bytes")
    )
    return f"{size / scale:.3g} {unit}"
