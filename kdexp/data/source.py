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
from kdexp.data.placement import Placement, choose_memory, ram_demand
from kdexp.data.workers import Workers
from kdexp.errors import DataUnavailable

Images = RawImages | ImageFiles


@dataclass(frozen=True)
class Source:
    """Training, test and unlabelled images. `resident` means that the device is to hold them all."""

    train: Images
    test: Images
    unlabelled: Images | None
    """The images of `dataset.unlabelled_root`, if that is given."""
    pool: Images
    """The training images, and after them the unlabelled ones."""
    resident: bool
    location: str
    """A sentence on where the images are and why, if not on the device."""
    workers: Workers | None = None
    """Decode images that stay on disk."""
    files: tuple[ImageFiles, ImageFiles] | None = None
    """The files of training and test images, if the set has any."""
    folder: ImageFiles | None = None
    """The files of the unlabelled images, if there are any."""
    found: Sequence[Finding] = ()
    """Findings about images that were decoded into memory."""


def open_source(dataset: ImageDataset, device: torch.device, placement: Placement) -> Source:
    """Reads a data set into memory, or leaves it on disk if memory is short; raises `DataUnavailable`."""
    files, folder = dataset.image_files(), dataset.unlabelled_files()
    in_memory = None if files else dataset.read()
    both: Sequence[Images] = files or in_memory or ()
    size, unlabelled = sum(map(_bytes, both)), _bytes(folder) if folder else 0
    # If students see only a part of the images, the device holds that part, and all unlabelled images, twice.
    share = dataset.student_fraction if dataset.student_fraction < 1 else 0
    on_device = int(size * (1 + share)) + unlabelled * (2 if share else 1)
    memory, why = choose_memory(size + unlabelled, on_device, files is not None, device, placement)
    count = f"images: {sum(len(part.labels) for part in both) + (len(folder.paths) if folder else 0):,}"
    if files and memory == "disk":
        workers = Workers(placement.processes, pinned=device.type == "cuda")
        by = "1 worker process" if workers.count == 1 else f"{workers.count} worker processes"
        pool = files[0] + folder if folder else files[0]
        return Source(*files, folder, pool, False, f"{count} streamed from disk by {by}{why}", workers, files, folder)
    location = why and f"{count} kept in RAM and copied in blocks{why}"
    if files:
        read, found = _decoded(files, folder)
    else:
        assert in_memory is not None
        read, found = _beside(in_memory, folder)
    return Source(*read, memory == "device", location, files=files, folder=folder, found=found)


def _bytes(images: Images) -> int:
    return math.prod(images.shape)


Read = tuple[RawImages, RawImages, RawImages | None, RawImages]
"""Training, test and unlabelled images, and the pool of a `Source`."""


def _decoded(files: tuple[ImageFiles, ImageFiles], folder: ImageFiles | None) -> tuple[Read, list[Finding]]:
    """Decodes all files; the training images and the unlabelled ones share the memory of the pool."""
    train, test = files
    (pool, decoded), found = decode_with_findings(train + folder if folder else train, test)
    return _parts(pool, len(train.paths), decoded), found


def _beside(both: tuple[RawImages, RawImages], folder: ImageFiles | None) -> tuple[Read, list[Finding]]:
    """Decodes the unlabelled images of a data set whose own ones are in memory."""
    train, test = both
    if folder is None:
        return _parts(train, len(train.labels), test), []
    if not (demand := ram_demand(_bytes(folder))).met:
        raise DataUnavailable(
            f"dataset.unlabelled_root: its {len(folder.paths):,} images need {demand}; only dataset=image_folder leaves images "
            "on disk"
        )
    (unlabelled,), found = decode_with_findings(folder)
    return _parts(train + unlabelled, len(train.labels), test), found


def _parts(pool: RawImages, training: int, test: RawImages) -> Read:
    return pool[:training], test, pool[training:] if len(pool.labels) > training else None, pool
