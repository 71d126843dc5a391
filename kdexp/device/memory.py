"""Free memory, what to do without it, and sizes as text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


def in_halves(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Outputs of a network in evaluation mode for images [n, ...]; those that don't fit into a GPU's memory are halved.

    Raises `torch.OutOfMemoryError` if a single image doesn't fit.
    """
    try:
        return network(image)
    except torch.OutOfMemoryError:
        if len(image) == 1:
            raise
    torch.cuda.empty_cache()  # outside of the handler, whose error keeps the tensors of the attempt
    return torch.cat([in_halves(network, half) for half in image.tensor_split(2)])


def free_memory(device: torch.device) -> int:
    """Bytes available to new tensors on the device, including memory that PyTorch has reserved and does not use.

    On CUDA no more than `torch.cuda.set_per_process_memory_fraction` leaves this process.
    """
    if device.type != "cuda":
        return available_memory()
    free, total = torch.cuda.mem_get_info(device)
    # Given "cuda" without a number, this function alone raises an error; without a device it takes the current one.
    share = torch.cuda.get_per_process_memory_fraction(device.index)
    reserved = torch.cuda.memory_reserved(device)
    return max(0, min(free, int(share * total) - reserved)) + reserved - torch.cuda.memory_allocated(device)


def available_memory() -> int:
    """Bytes available to new arrays: on Linux as the system and its control groups say, elsewhere all physical memory.

    Linux counts memory here that it has not touched since it started, although none of its zones lists it as free.
    """
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines())
        return min([int(lines["MemAvailable"].split()[0]) * 1024, *_left_by_control_groups()])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class GroupFiles:
    """Where a version of control groups keeps the limit of a group's memory, its use, and the page cache in that."""

    controller: str
    folder: str
    limit: str
    used: str
    cache: str


VERSIONS = (
    GroupFiles("", "", "memory.max", "memory.current", "inactive_file"),
    GroupFiles("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _left_by_control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group of this process leaves it; containers and batch systems limit memory by these."""
    for line in own.read_text("utf-8").splitlines():
        _, controllers, name = line.split(":", 2)
        for files in VERSIONS:
            if files.controller in controllers.split(","):
                top = root / files.folder
                lowest = top / name.removeprefix("/")
                groups = [folder for folder in (lowest, *lowest.parents) if folder.is_relative_to(top)]
                yield from (left for group in groups if (left := _left_by(group, files)) is not None)


def _left_by(group: Path, files: GroupFiles) -> int | None:
    limit = group / files.limit
    if not limit.is_file() or (text := limit.read_text("utf-8").strip()) == "max":
        return None
    pages = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
    used = int((group / files.used).read_text("utf-8")) - int(pages[files.cache])
    return max(0, int(text) - used)


def size_text(size: int) -> str:
    """Bytes with three digits, such as `369 MB`; MB = 10⁶ bytes."""
    scale, unit = next(
        (pair for pair in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= pair[0]), (1, "bytes")
    )
    return f"{size / scale:.3g} {unit}"
