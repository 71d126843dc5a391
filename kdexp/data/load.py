"""Loads a data set: read, split and normalised, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kdexp.data.dataset import ImageDataset
from kdexp.data.draws import stratified_draw
from kdexp.data.few_labels import FewLabels
from kdexp.data.fingerprint import summarise
from kdexp.data.placement import AUTOMATIC, Placement
from kdexp.data.source import open_source
from kdexp.data.split import Split
from kdexp.data.summary import SummaryFile
from kdexp.data.workers import Workers
from kdexp.errors import DataUnavailable


@dataclass(frozen=True)
class Data:
    """A data set as a run uses it. The students' training images are a subset of the teacher's, or the same."""

    train: Split
    student_train: Split
    validation: Split | None
    test: Split
    fingerprint: str
    mean: list[float]
    std: list[float]
    measured: int
    """Number of images that `mean` and `std` were measured on, unless they were given: also those that a limit leaves out."""
    location: str = ""
    """A sentence on where the images are and why, if not on the device."""
    notes: Sequence[str] = ()
    """Sentences about how the images were found."""
    warnings: Sequence[str] = ()
    """Sentences about damaged and duplicate images."""
    workers: Workers | None = None
    all_labels: Split | None = None
    """All training images with their labels, where the others have only some labels."""

    def close(self) -> None:
        """Ends the worker processes, if there are any. Reading more images from disk starts new ones."""
        if self.workers is not None:
            self.workers.close()


def load(
    dataset: ImageDataset,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    placement: Placement = AUTOMATIC,
) -> Data:
    """Reads, splits and normalises a data set. All draws depend on `split_seed` alone. Raises `DataUnavailable`."""
    source = open_source(dataset, device, placement)
    train = source.train
    if problem := dataset.split_problem(train.labels.bincount(minlength=dataset.num_classes).tolist()):
        raise DataUnavailable(problem)
    held_out = dataset.held_out(train.labels)
    rows, validation = (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
    measured, rows = len(rows), rows[dataset.limited(train.labels[rows])]
    seen = stratified_draw(train.labels[rows], dataset.student_fraction, dataset.split_seed + 1)
    given = dataset.mean is not None and dataset.std is not None
    summary = summarise(source, ~held_out, given=given, cache=SummaryFile(placement.summaries, dataset))
    dataset = dataset.normalised_by(summary.mean, summary.std)
    assert dataset.mean is not None and dataset.std is not None
    split = partial(
        Split,
        dataset=dataset,
        device=device,
        memory_format=memory_format,
        resident=source.resident,
        workers=source.workers,
    )
    whole = split(train, augmented=True, rows=rows)
    few = dataset.labels is not None
    teacher_split = FewLabels(whole, dataset.labelled(train.labels[rows]).nonzero().flatten()) if few else whole
    return Data(
        train=teacher_split,
        student_train=teacher_split if bool(seen.all()) else split(train, augmented=True, rows=rows[seen]),
        validation=split(train, augmented=False, rows=validation) if len(validation) else None,
        test=split(source.test, augmented=False),
        fingerprint=summary.fingerprint,
        mean=dataset.mean,
        std=dataset.std,
        measured=measured,
        location=source.location,
        notes=dataset.notes(),
        warnings=summary.warnings,
        workers=source.workers,
        all_labels=whole if few else None,
    )
