"""The images of a data set where there is room for them: in memory, or in files that workers decode again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kdexp.data.dataset import ImageDataset
from kdexp.data.decoding import decode_with_findings
from kdexp.data.findings import Finding
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.placement import Keeping, place
from kdexp.data.workers import Workers

Images = RawImages | ImageFiles


@dataclass(frozen=True)
class Source:
    """Training and test images; those in RAM are copied to the device at once if it is to hold them all (`resident`)."""

    train: Images
    test: Images
    resident: bool
    told: str
    """Where they are and why, if not on the device."""
    workers: Workers | None = None
    """Who decodes what stays on disk."""
    files: tuple[ImageFiles, ImageFiles] | None = None
    """What training and test images were, or are, decoded from."""
    found: Sequence[Finding] = ()
    """What was found when they were decoded into memory."""


def find(dataset: ImageDataset, device: torch.device, keeping: Keeping) -> Source:
    """Reads a data set, or leaves it on disk, as the memory allows; raises `DataUnavailable`."""
    files = dataset.image_files()
    both: tuple[Images, Images] = files or dataset.read()
    size = sum(math.prod(part.shape) for part in both)
    # Where students see a share of the images, the device holds that twice.
    more = dataset.student_fraction if dataset.student_fraction < 1 else 0
    memory, why = place(size, int(size * (1 + more)), files is not None, device, keeping)
    count = f"images: {sum(len(part.labels) for part in both):,}"
    if memory == "disk":
        workers = Workers(keeping.processes, pinned=device.type == "cuda")
        by = "1 worker process" if workers.count == 1 else f"{workers.count} worker processes"
        return Source(*both, False, f"{count} streamed from disk by {by}{why}", workers, files)
    found: list[Finding] = []
    if files:
        (train, test), found = decode_with_findings(*files)
        both = train, test
    told = why and f"{count} kept in RAM and copied in blocks{why}"
    return Source(*both, memory == "device", told, files=files, found=found)
