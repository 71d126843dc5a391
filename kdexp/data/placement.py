"""Chooses where images are stored, on the device, in RAM or on disk, by the free memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from kdexp.configuration.settings import Memory
from kdexp.device.memory import available_memory, free_memory, size_text
from kdexp.device.sharing import sharers
from kdexp.errors import DataUnavailable

RAM_SHARE = 0.75
"""Share of the free RAM that images may take."""
DEVICE_SHARE = 0.5
"""Share of an accelerator's free memory; networks and activations need the rest."""
MOST_WORKERS = 16

REQUESTED = " (memory={})"


@dataclass(frozen=True)
class Placement:
    """How a run wants images stored. Batches are bitwise the same for every choice.

    `workers=None` means one per core but one, at most `MOST_WORKERS`. `summaries` is the folder in which summaries of data sets
    are kept, if any.
    """

    memory: Memory = "auto"
    workers: int | None = None
    summaries: Path | None = None

    @property
    def processes(self) -> int:
        """Number of worker processes for images on disk."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or min(MOST_WORKERS, max(1, cores // sharers() - 1))


AUTOMATIC = Placement()


@dataclass(frozen=True)
class Demand:
    """Bytes that are needed, bytes that are free, and the share of these that may be used."""

    needed: int
    free: int
    share: float
    where: str

    @property
    def met(self) -> bool:
        """Whether the needed bytes fit into that share."""
        return self.needed <= self.share * self.free

    def __str__(self) -> str:
        free = f"the {size_text(self.free)} that are free"
        bound = free if self.needed > self.free else f"{self.share:.0%} of {free}"
        return f"{size_text(self.needed)} of {self.where}, more than {bound}"


def choose_memory(size: int, on_device: int, unread: bool, device: torch.device, placement: Placement) -> tuple[Memory, str]:
    """Returns where images of `size` bytes (`on_device` bytes on the device) are stored, and why if not on the device.

    Takes the requested memory, else the first of device, RAM and disk with enough room; images that were read already do not
    go back to disk. Raises `DataUnavailable` if the requested memory is too small.
    """
    demands = _demands(size if unread else 0, on_device, device)
    if placement.memory == "disk":
        return "disk", REQUESTED.format("disk")
    if placement.memory != "auto":
        for demand in demands[placement.memory]:
            if demand.needed > demand.free:
                raise DataUnavailable(
                    f"memory={placement.memory}: the images need {demand}; memory=auto chooses a memory that fits"
                )
        return placement.memory, "" if placement.memory == "device" else REQUESTED.format(placement.memory)
    unmet = {kind: next((demand for demand in demands[kind] if not demand.met), None) for kind in ("device", "ram")}
    if unmet["device"] is None:
        return "device", ""
    if unmet["ram"] is None or not unread:
        return "ram", f", since they need {unmet['device']}"
    return "disk", f", since they need {unmet['ram']}"


def _demands(unread: int, on_device: int, device: torch.device) -> dict[str, list[Demand]]:
    """Returns the demands of storing images on the device and in RAM, of which `unread` bytes are still to be read."""
    if device.type == "cpu":  # prepared images take the same memory as those that were read
        return {"device": [ram_demand(unread + on_device)], "ram": [ram_demand(unread)]}
    share = DEVICE_SHARE / sharers(device.type)
    accelerator = Demand(on_device, free_memory(device), share, f"memory on {device.type}")
    return {"device": [ram_demand(unread), accelerator], "ram": [ram_demand(unread)]}


def ram_demand(needed: int) -> Demand:
    """Returns the demand of keeping so many bytes in RAM."""
    return Demand(needed, available_memory(), RAM_SHARE / sharers(), "memory")
