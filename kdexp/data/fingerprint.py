"""One pass over all images of a data set: its fingerprint, its mean and standard deviation, and damaged or equal images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kdexp.data.decoding import progress_bar
from kdexp.data.duplicates import Digests, copies, duplicates
from kdexp.data.findings import Finding, damaged, refuse
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.source import Images, Source
from kdexp.data.summary import Summary, SummaryFile, UnlabelledSummary
from kdexp.data.workers import piece_size
from kdexp.errors import DataUnavailable, a_few
from kdexp.text.characters import printable

CHUNK = 1024
"""Images that are processed at a time."""


def summarise(source: Source, measured: Tensor, *, given: bool, cache: SummaryFile) -> Summary:
    """Summarises all images. Mean and std are measured on the training images marked in `measured` [N].

    For images in memory they are not measured if they are `given`. Images on disk are decoded once for this, a bounded number
    at a time, unless the `cache` has their summary. Raises `DataUnavailable`, which counts and names the files that can't be
    read.
    """
    train, test = source.train, source.test
    if isinstance(train, ImageFiles) and isinstance(test, ImageFiles):
        found, damage = cache.read()
        if found is None:
            found = _read_all(source, measured)
            cache.write(found)
        return found._replace(warnings=[*damage, *found.warnings])
    assert isinstance(train, RawImages) and isinstance(test, RawImages)
    mean, std = (None, None) if given else normalisation(train.images, measured.nonzero().flatten())
    digests, unlabelled = Digests(), source.unlabelled
    if source.files or unlabelled:
        for part in (train, test, unlabelled):
            for images in part.images.split(CHUNK) if isinstance(part, RawImages) else ():
                digests.add(images)
    of_folder = _unlabelled(source, measured, digests, fingerprint(unlabelled)) if unlabelled else None
    warnings = _warnings(source, measured, digests, source.found)
    summary = Summary(fingerprint(train, test), mean, std, warnings, _counts(source, measured), of_folder)
    cache.write(summary)
    return summary


def _counts(source: Source, measured: Tensor) -> list[int]:
    """Returns the number of training images of every class that are not held out."""
    return source.train.labels[measured].bincount().tolist()


def _warnings(source: Source, measured: Tensor, digests: Digests, found: Sequence[Finding]) -> list[str]:
    """Returns sentences about damaged and equal files; training images that are not measured are validation images."""
    if source.files is None:
        return damaged(found)
    train, test = source.files
    parts = torch.cat([(~measured).long(), torch.full_like(test.labels, 2)])
    return [*damaged(found), *duplicates(train + test, digests.array()[: len(parts)], parts.numpy())]


def _unlabelled(source: Source, measured: Tensor, digests: Digests, digest: str) -> UnlabelledSummary:
    """Summarises the unlabelled images, of which `digest` is the hash; raises `DataUnavailable` if some are test images.

    The digests are those of training, test and unlabelled images.
    """
    train, test = len(source.train.labels), len(source.test.labels)
    of_train, of_test, ours = np.split(digests.array(), [train, train + test])
    if found := copies(ours, of_test):
        assert source.folder is not None
        are = "is a test image" if len(found) == 1 else "are test images"
        named = a_few([printable(source.folder.paths[row]) for row in found], 3)
        raise DataUnavailable(
            f"dataset.unlabelled_root: {len(found):,} of its {len(ours):,} images {are} of this data set, by which learners "
            f"are judged ({named}); remove {'it' if len(found) == 1 else 'them'}"
        )
    return UnlabelledSummary(digest, copies(ours, of_train[~measured.numpy()]))


def _read_all(source: Source, measured: Tensor) -> Summary:
    """Decodes all files once, in worker processes, and summarises them."""
    assert source.files is not None and source.workers is not None
    (train, test), workers = source.files, source.workers
    levels, digests = Levels(train.channels), Digests()
    found: list[Finding] = []

    def pieces(files: ImageFiles) -> Iterator[Tensor]:
        size, rows = piece_size(files), torch.arange(len(files.paths))
        marks = measured if files is train else torch.zeros(len(rows), dtype=torch.bool)
        marked_pieces = zip(workers.read(files, rows), marks.split(size), strict=True)
        for (images, findings), marked in progress_bar(marked_pieces, "reading images", -(-len(rows) // size)):
            found.extend(findings)
            levels.count(images[marked])
            digests.add(images)
            yield images

    digest = fingerprint(train, test, pieces=pieces)
    of_folder = fingerprint(source.unlabelled, pieces=pieces) if source.unlabelled else ""
    if any(finding.lost for finding in found):
        workers.close()
    refuse(found)
    warnings = _warnings(source, measured, digests, found)
    try:
        unlabelled = _unlabelled(source, measured, digests, of_folder) if of_folder else None
    except DataUnavailable:
        workers.close()
        raise
    return Summary(digest, *levels.normalisation(), warnings, _counts(source, measured), unlabelled)


def fingerprint(*splits: Images, pieces: Callable[[ImageFiles], Iterable[Tensor]] | None = None) -> str:
    """Returns a hash of every pixel and label in order; `pieces` decodes files piece by piece."""
    digest = hashlib.sha256()

    def add(shape: tuple[int, ...], tensors: Iterable[Tensor]) -> None:
        for number, tensor in enumerate(tensors):
            digest.update(str((shape, tensor.dtype)).encode() if not number else b"")
            digest.update(tensor.contiguous().numpy().data)

    for split in splits:
        if isinstance(split, RawImages):
            add(split.shape, split.images.split(CHUNK))
        elif pieces is not None:
            add(split.shape, pieces(split))
        add(tuple(split.labels.shape), [split.labels])
    return digest.hexdigest()


class Levels:
    """Histogram of the 256 values of every channel. Counts are exact, whatever the number of threads."""

    def __init__(self, channels: int):
        self.counts = torch.zeros(channels, 256, dtype=torch.int64)

    def count(self, images: Tensor) -> None:
        """Adds uint8 images [N, C, H, W]."""
        for counts, channel in zip(self.counts, images.unbind(1), strict=True):
            counts += channel.flatten().bincount(minlength=256)

    def normalisation(self) -> tuple[list[float], list[float]]:
        """Returns mean and standard deviation of every channel, on the scale 0..1, to four decimals."""
        shares = self.counts / self.counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for share in shares.double():
            mean = (share * values).sum()
            means.append(round(float(mean), 4))
            deviations.append(round(float((share * (values - mean) ** 2).sum().sqrt()), 4))
        return means, deviations


def normalisation(images: Tensor, rows: Tensor) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of every channel over those rows of uint8 images [N, C, H, W]."""
    levels = Levels(images.shape[1])
    for chunk in rows.split(CHUNK):
        levels.count(images.index_select(0, chunk))
    return levels.normalisation()
