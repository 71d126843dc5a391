"""What is noted in the store about a data set's images, so that a later command knows it without reading them."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import PIL

from kdexp.data import decoding
from kdexp.data.dataset import ImageDataset
from kdexp.errors import BadFile
from kdexp.files import file_digest, write_whole
from kdexp.store import descriptions
from kdexp.store.schema import read_json, self_digest


class UnlabelledSummary(NamedTuple):
    """Hash of every pixel of unlabelled images in order, and the rows of those that are also validation images."""

    fingerprint: str
    validation_copies: list[int]


class Summary(NamedTuple):
    """Hash of every pixel and label in order, mean and std per channel (or None), and sentences about bad images."""

    fingerprint: str
    mean: list[float] | None
    std: list[float] | None
    warnings: list[str]
    counts: list[int]
    """Training images of every class, without those for validation."""
    unlabelled: UnlabelledSummary | None = None
    """The images of `dataset.unlabelled_root`, if that is given."""


class SummaryFile:
    """The summary of a data set in a folder, under a name that changes with its files, its validation images and the decoder.

    There is none without a folder, or if the data set can't tell whether its files have changed.
    """

    def __init__(self, folder: Path | None, dataset: ImageDataset):
        stamp = _stamp(dataset) if folder is not None else None
        self._path = folder / f"{_name(dataset, stamp)}.json" if folder is not None and stamp is not None else None

    def read(self) -> tuple[Summary | None, list[str]]:
        """Returns the summary, None if there is none; and a sentence if it is damaged."""
        if self._path is None or not self._path.exists():
            return None, []
        try:
            found = read_json(self._path, descriptions.Summary)
        except BadFile as error:
            return None, [f"{error}; all images were read again"]
        unlabelled = UnlabelledSummary(**found["unlabelled"]) if "unlabelled" in found else None
        own = Summary(*(found[name] for name in Summary._fields if name != "unlabelled"))
        return own._replace(unlabelled=unlabelled), []

    def write(self, summary: Summary) -> None:
        """Writes the summary unless it is there; measured values of the same images are kept. Does nothing on `OSError`."""
        if self._path is None:
            return
        before, _ = self.read()
        if before is not None and before.fingerprint == summary.fingerprint and summary.mean is None:
            summary = summary._replace(mean=before.mean, std=before.std)
        if summary == before:
            return
        plain = summary._asdict()
        del plain["unlabelled"]
        if summary.unlabelled is not None:
            plain["unlabelled"] = summary.unlabelled._asdict()
        with suppress(OSError):  # the next run then reads all images again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps({**plain, "digest": self_digest(plain)}))


def _stamp(dataset: ImageDataset) -> str | None:
    """What changes with any of the files that are read; None if the data set can't tell."""
    own, unlabelled = dataset.stamp(), dataset.unlabelled_files()
    return own if own is None or unlabelled is None else f"{own} {unlabelled.stamp()}"


def _name(dataset: ImageDataset, stamp: str) -> str:
    """Hash of everything that decides a summary."""
    decoder = f"{PIL.__version__} {file_digest(Path(decoding.__file__))}"
    decisive = [type(dataset).__qualname__, stamp, dataset.val_fraction, dataset.split_seed, dataset.num_classes, decoder]
    return hashlib.sha256(json.dumps(decisive).encode(errors="surrogateescape")).hexdigest()[:16]
