"""One pass over all images of a data set: its fingerprint, its mean and standard deviation, and damaged or equal images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import PIL
import torch
from torch import Tensor

from kdexp.data import decoding
from kdexp.data.decoding import progress_bar
from kdexp.data.duplicates import Digests, duplicates
from kdexp.data.findings import Finding, damaged, refuse
from kdexp.data.images import ImageFiles, RawImages
from kdexp.data.source import Images, Source
from kdexp.data.workers import piece_size
from kdexp.errors import BadFile
from kdexp.files import file_digest, write_whole
from kdexp.store import descriptions
from kdexp.store.schema import read_json, self_digest

CHUNK = 1024
"""Images that are processed at a time."""


class Summary(NamedTuple):
    """Hash of every pixel and label in order, mean and std per channel (or None), and sentences about bad images."""

    fingerprint: str
    mean: list[float] | None
    std: list[float] | None
    warnings: list[str]


def summarise(source: Source, measured: Tensor, *, given: bool, cache: Path | None) -> Summary:
    """Summarises all images. Mean and std are measured on the training images marked in `measured` [N].

    For images in memory they are not measured if they are `given`. Images on disk are decoded once for this, a bounded number
    at a time; the summary is cached in the folder `cache`, if there is one, until a path, size, modification time, mark or the
    decoder changes. Raises `DataUnavailable`, which counts and names the files that can't be read.
    """
    train, test = source.train, source.test
    if isinstance(train, ImageFiles) and isinstance(test, ImageFiles):
        return _summarise_files(source, measured, cache)
    assert isinstance(train, RawImages) and isinstance(test, RawImages)
    mean, std = (None, None) if given else normalisation(train.images, measured.nonzero().flatten())
    digests = Digests()
    if source.files:
        for images in (*train.images.split(CHUNK), *test.images.split(CHUNK)):
            digests.add(images)
    return Summary(fingerprint(train, test), mean, std, _warnings(source, measured, digests, source.found))


def _warnings(source: Source, measured: Tensor, digests: Digests, found: Sequence[Finding]) -> list[str]:
    """Returns sentences about damaged and equal files; training images that are not measured are validation images."""
    if source.files is None:
        return []
    train, test = source.files
    parts = torch.cat([(~measured).long(), torch.full_like(test.labels, 2)])
    return [*damaged(found), *duplicates(train + test, digests.array(), parts.numpy())]


def _summarise_files(source: Source, measured: Tensor, cache: Path | None) -> Summary:
    """Returns the cached summary of images on disk, or reads them all and caches it."""
    if cache is None or source.files is None:
        return _read_all(source, measured)
    path, damage = cache / f"{_state_digest(*source.files, measured)}.json", []
    if path.exists():
        try:
            found = read_json(path, descriptions.Summary)
            return Summary(*(found[name] for name in Summary._fields))
        except BadFile as error:
            damage.append(f"{error}; all images were read again")
    summary = _read_all(source, measured)
    plain = summary._asdict()
    with suppress(OSError):  # the next run then reads all images again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**plain, "digest": self_digest(plain)}))
    return summary._replace(warnings=[*damage, *summary.warnings])


def _state_digest(*parts: ImageFiles | Tensor) -> str:
    """Returns a hash that changes if a file, a label, a mark or the decoder changes."""
    digest = hashlib.sha256(f"{PIL.__version__} {file_digest(Path(decoding.__file__))}".encode())
    for part in parts:
        if isinstance(part, ImageFiles):
            digest.update(repr(part.shape[1:]).encode())
            for path in part.paths:
                state = Path(path).stat() if Path(path).exists() else None
                digest.update(f"{path}\0{state and (state.st_size, state.st_mtime_ns)}\n".encode(errors="surrogateescape"))
            part = part.labels
        digest.update(part.numpy().data)
    return digest.hexdigest()[:16]


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
    if any(finding.lost for finding in found):
        workers.close()
    refuse(found)
    return Summary(digest, *levels.normalisation(), _warnings(source, measured, digests, found))


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
