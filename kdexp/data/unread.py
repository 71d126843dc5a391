"""What an earlier run noted about a data set, for dry runs, which read no images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdexp.data.dataset import ImageDataset
from kdexp.data.summary import Summary, SummaryFile
from kdexp.errors import DataUnavailable


@dataclass(frozen=True)
class UnreadData:
    """A data set as an earlier run noted it; if it did not, `gap` says why, and `fingerprint` is empty."""

    fingerprint: str
    mean: list[float] | None
    std: list[float] | None
    counts: list[int] | None
    """Training images of every class, without those for validation; None if they are unknown."""
    measured: int | None = None
    """Number of images that `mean` and `std` were measured on, unless they were given."""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    gap: str = ""
    location: str = ""
    """Decided when images are read."""
    unlabelled: str = ""
    """The fingerprint of the images of `dataset.unlabelled_root`, if that is given."""

    @property
    def images(self) -> int | None:
        """Number of the teacher's training images, if known."""
        return None if self.counts is None else sum(self.counts)

    def student_images(self, fraction: float) -> int | None:
        """Number of the students' training images, of which there are a `fraction` of each class; if known."""
        return None if self.counts is None else sum(round(fraction * count) for count in self.counts)


def look_up(dataset: ImageDataset, summaries: Path) -> UnreadData:
    """Returns what an earlier run with the same files noted about a data set.

    Raises `DataUnavailable` for a limit, or for a number of labels, that these images can't have.
    """
    if not dataset.present():
        return UnreadData("", dataset.mean, dataset.std, None, gap="the data are not here yet; a run would download them")
    found, _ = SummaryFile(summaries, dataset).read()
    try:
        gap = _gap(dataset, found)
        notes = dataset.notes()
        if found is None or gap:
            return UnreadData("", dataset.mean, dataset.std, _listed(dataset), notes=notes, gap=gap)
        normalised = dataset.normalised_by(found.mean, found.std)
    except DataUnavailable as error:
        return UnreadData("", dataset.mean, dataset.std, None, gap=str(error))
    if problem := dataset.limit_problem(found.counts):
        raise DataUnavailable(problem)
    counts, measured = list(dataset.limited_counts(found.counts)), sum(found.counts)
    if problem := dataset.label_problem(counts):
        raise DataUnavailable(problem)
    unlabelled = found.unlabelled.fingerprint if found.unlabelled else ""
    values = (found.fingerprint, normalised.mean, normalised.std, counts, measured, notes, found.warnings)
    return UnreadData(*values, unlabelled=unlabelled)


def _gap(dataset: ImageDataset, found: Summary | None) -> str:
    """Returns why a summary does not tell all that decides a learner's weights; empty if it does."""
    if found is None:
        return "no run has noted these images in this store, or their files have changed since; a run reads them"
    if found.mean is None and (dataset.mean is None or dataset.std is None):
        return "no run has noted the measured dataset.mean and dataset.std in this store; a run measures them"
    return ""


def _listed(dataset: ImageDataset) -> list[int] | None:
    """Counts the training images where each is a file."""
    if (files := dataset.image_files()) is None:
        return None
    labels = files[0].labels
    labels = labels[~dataset.held_out(labels)]
    return labels[dataset.limited(labels)].bincount().tolist()
