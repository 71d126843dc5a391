"""The images of a data set, read into memory or left on disk for workers to decode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kdexp.data.dataset import ImageDataset
from kdexp.data.decoding import decode_with_findings
from kdexp.data.findings import Finding
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.placement import Placement, choose_memory
from kdexp.data.workers import Workers

Images = RawImages | ImageFiles


@dataclass(frozen=True)
class Source:
    """Training and test images. `resident` means that the device is to hold them all."""

    train: Images
    test: Images
    resident: bool
    location: str
    """A sentence on where the images are and why, if not on the device."""
    workers: Workers | None = None
    """Decode images that stay on disk."""
    files: tuple[ImageFiles, ImageFiles] | None = None
    """The files of training and test images, if the set has any."""
    found: Sequence[Finding] = ()
    """Findings about images that were decoded into memory."""


def open_source(dataset: ImageDataset, device: torch.device, placement: Placement) -> Source:
    """Reads a data set into memory, or leaves it on disk if memory is short; raises `DataUnavailable`."""
    files = dataset.image_files()
    both: tuple[Images, Images] = files or dataset.read()
    size = sum(math.prod(part.shape) for part in both)
    # If students see only a part of the images, the device holds that part twice.
    more = dataset.student_fraction if dataset.student_fraction < 1 else 0
    memory, why = choose_memory(size, int(size * (1 + more)), files is not None, device, placement)
    count = f"images: {sum(len(part.labels) for part in both):,}"
    if memory == "disk":
        workers = Workers(placement.processes, pinned=device.type == "cuda")
        by = "1 worker process" if workers.count == 1 else f"{workers.count} worker processes"
        return Source(*both, False, f"{count} streamed from disk by {by}{why}", workers, files)
    found: list[Finding] = []
    if files:
        (train, test), found = decode_with_findings(*files)
        both = train, test
    location = why and f"{count} kept in RAM and copied in blocks{why}"
    return Source(*both, memory == "device", location, files=files, found=found)
