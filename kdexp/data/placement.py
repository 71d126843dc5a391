"""Where a set of images is to be kept, by the memory that is free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kdexp.configuration.settings import Memory
from kdexp.device.memory import available_memory, free_memory, size_text
from kdexp.errors import DataUnavailable

RAM_SHARE = 0.75
"""Of the free memory, that images may take."""
DEVICE_SHARE = 0.5
"""The same on an accelerator, where networks and their activations need most."""
MOST_WORKERS = 16

ASKED = " (memory={})"


@dataclass(frozen=True)
class Keeping:
    """How a run wants images to be kept; batches are bitwise the same whatever is chosen.

    `workers` None is one per core but one, at most `MOST_WORKERS`. In `summaries`, if it is given, is kept what is known of
    images that stay on disk.
    """

    memory: Memory = "auto"
    workers: int | None = None
    summaries: Path | None = None

    @property
    def processes(self) -> int:
        """How many worker processes decode images that are on disk, where there are such."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or min(MOST_WORKERS, max(1, cores - 1))


@dataclass(frozen=True)
class Demand:
    """Bytes that are needed of those that are free, and the share of these that they may be."""

    needed: int
    free: int
    share: float
    where: str

    @property
    def met(self) -> bool:
        """Whether they fit into that share."""
        return self.needed <= self.share * self.free

    def __str__(self) -> str:
        free = f"the {size_text(self.free)} that are free"
        bound = free if self.needed > self.free else f"{self.share:.0%} of {free}"
        return f"{size_text(self.needed)} of {self.where}, more than {bound}"


def place(size: int, on_device: int, unread: bool, device: torch.device, keeping: Keeping) -> tuple[Memory, str]:
    """Where images of `size` bytes, of `on_device` bytes on the device, are kept, and why if not there (else empty).

    It is the first of device, RAM and disk with the room, or the one that was asked for; what was read already does not go
    back to disk. Raises `DataUnavailable` if what was asked for can't be.
    """
    asked = _demands(size if unread else 0, on_device, device)
    if keeping.memory == "disk":
        return "disk", ASKED.format("disk")
    if keeping.memory != "auto":
        for demand in asked[keeping.memory]:
            if demand.needed > demand.free:
                raise DataUnavailable(f"memory={keeping.memory}: the images need {demand}; memory=auto looks for room")
        return keeping.memory, "" if keeping.memory == "device" else ASKED.format(keeping.memory)
    of_device, of_ram = (next((one for one in asked[kind] if not one.met), None) for kind in ("device", "ram"))
    if of_device is None:
        return "device", ""
    if of_ram is None or not unread:
        return "ram", f", since they need {of_device}"
    return "disk", f", since they need {of_ram}"


def _demands(unread: int, on_device: int, device: torch.device) -> dict[str, list[Demand]]:
    """What it takes to keep images on the device, and in RAM, of which so many bytes are yet to be read."""

    def in_ram(needed: int) -> Demand:
        return Demand(needed, available_memory(), RAM_SHARE, "memory")

    if device.type == "cpu":  # where the prepared images lie beside those that were read
        return {"device": [in_ram(unread + on_device)], "ram": [in_ram(unread)]}
    there = Demand(on_device, free_memory(device), DEVICE_SHARE, f"memory on {device.type}")
    return {"device": [in_ram(unread), there], "ram": [in_ram(unread)]}
