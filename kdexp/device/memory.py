"""How much memory there is, and how sizes are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on the device may take; those that PyTorch holds there for new ones are among them."""
    if device.type != "cuda":
        return available_memory()
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def available_memory() -> int:
    """Bytes that new arrays may take: what Linux calls available, within the control groups; elsewhere all physical memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines())
        return min([int(lines["MemAvailable"].split()[0]) * 1024, *_left_by_groups()])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What the control groups (version 2) of this process leave it, by which containers and batch systems limit memory."""
    names = [line.removeprefix("0::/") for line in own.read_text("utf-8").splitlines() if line.startswith("0::/")]
    for group in (folder for name in names for folder in (root / name, *(root / name).parents) if folder.is_relative_to(root)):
        limit = group / "memory.max"
        if limit.is_file() and (most := limit.read_text("utf-8").strip()) != "max":
            pages = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
            used = int((group / "memory.current").read_text("utf-8")) - int(pages["inactive_file"])
            yield max(0, int(most) - used)


def size_text(size: int) -> str:
    """Bytes to three digits, such as `369 MB`; MB = 10⁶ bytes."""
    scale, unit = next(
        (pair for pair in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= pair[0]), (1, "bytes")
    )
    return f"{size / scale:.3g} {unit}"
