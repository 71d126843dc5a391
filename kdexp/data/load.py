"""Loads a data set: read, split and normalised, on its device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kdexp.data.dataset import ImageDataset
from kdexp.data.draws import stratified_draw
from kdexp.data.few_labels import FewLabels
from kdexp.data.fingerprint import summarise
from kdexp.data.placement import AUTOMATIC, Placement
from kdexp.data.source import Source, open_source
from kdexp.data.split import Split
from kdexp.data.summary import SummaryFile, UnlabelledSummary
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
    unlabelled: str = ""
    """The fingerprint of the images of `dataset.unlabelled_root`, if that is given."""
    folder: str = ""
    """That folder in messages."""
    folder_images: int = 0
    """Number of these images, without copies of validation images."""

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
    if dataset.unlabelled and (problem := dataset.unlabelled.problem(dataset.in_channels)):
        raise DataUnavailable(problem)
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
    more = _folder_rows(source, summary.unlabelled)
    whole = split(source.pool, augmented=True, rows=rows, unlabelled=more)
    few = dataset.labels is not None
    teacher_split = _training(whole, dataset.labelled(train.labels[rows]).nonzero().flatten() if few else None)
    some = None if bool(seen.all()) else split(source.pool, augmented=True, rows=rows[seen], unlabelled=more)
    return Data(
        train=teacher_split,
        student_train=teacher_split if some is None else _training(some, None),
        validation=split(train, augmented=False, rows=validation) if len(validation) else None,
        test=split(source.test, augmented=False),
        fingerprint=summary.fingerprint,
        mean=dataset.mean,
        std=dataset.std,
        measured=measured,
        location=source.location,
        notes=[*dataset.notes(), *_folder_notes(dataset, summary.unlabelled)],
        warnings=summary.warnings,
        workers=source.workers,
        all_labels=whole if few else None,
        unlabelled=summary.unlabelled.fingerprint if summary.unlabelled else "",
        folder=dataset.unlabelled.name if dataset.unlabelled else "",
        folder_images=len(more),
    )


def _folder_rows(source: Source, summary: UnlabelledSummary | None) -> Tensor:
    """Returns the rows of the pool that are unlabelled images of a folder, without copies of validation images."""
    first = len(source.train.labels)
    left_out = torch.tensor([] if summary is None else summary.validation_copies, dtype=torch.long)
    kept = torch.ones(len(source.pool.labels) - first, dtype=torch.bool).index_fill(0, left_out, False)
    return first + kept.nonzero().flatten()


def _training(whole: Split, labelled: Tensor | None) -> Split:
    """Returns training images, of which those rows have a label (None: all), next to images without, if there are any."""
    all_labelled = labelled is None and len(whole) == whole.stored_images
    return whole if all_labelled else FewLabels(whole, labelled)


def _folder_notes(dataset: ImageDataset, summary: UnlabelledSummary | None) -> Iterator[str]:
    """Yields sentences about the images of `dataset.unlabelled_root`."""
    if dataset.unlabelled is None or summary is None:
        return
    if copies := summary.validation_copies:
        what = (
            "1 image is a validation image, and" if len(copies) == 1 else f"{len(copies):,} images are validation images, and"
        )
        yield f"{dataset.unlabelled.name}: {what} left out; nothing is learned from those that choose the best epoch"
    yield from (f"{dataset.unlabelled.name}: {note}" for note in dataset.unlabelled.notes())
