"""The rows of a run's table as plain values, computed from stored results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from kdexp.report.latency import measure
from kdexp.report.published import departures, explain, reference
from kdexp.store.stored import StoredLearner
from kdexp.tasks.classification import agreement

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.training.entry import Entry


ON_TEST_IMAGES = (
    *("test_top1", "test_top5", "balanced_accuracy", "class_accuracies", "best_epoch_test_top1"),
    *("difference", "agreement", "nll", "ece"),
)
"""The fields of a `Row` that are measured on test images."""


@dataclass
class Row:
    """One learner of the table. Accuracies are fractions of 1, `difference` is in percentage points; None is unknown."""

    role: str
    model: str
    method: str
    key: str
    status: str = "finished"
    parameters: int | None = None
    training_only_parameters: int | None = None
    compression: float | None = None
    macs: int | None = None
    size_mb: float | None = None
    latency_ms: float | None = None
    images_per_second: float | None = None
    test_top1: float | None = None
    test_top5: float | None = None
    balanced_accuracy: float | None = None
    """Mean test accuracy of the classes, if these are imbalanced; then `class_accuracies` has each one's."""
    class_accuracies: list[float | None] | None = None
    best_epoch: int | None = None
    best_epoch_test_top1: float | None = None
    validation_top1: float | None = None
    difference: float | None = None
    published: float | None = None
    published_std: float | None = None
    standard_errors: float | None = None
    """Distance of the test accuracy from the published one; see `Reference.distance`."""
    agreement: float | None = None
    nll: float | None = None
    ece: float | None = None
    train_images: int | None = None
    train_seconds: float | None = None
    n: int = 0
    precision: str = ""
    shortened: str = ""
    """What makes the run shorter than it should be; empty for a complete one."""

    def plain(self) -> dict[str, Any]:
        """The row as a dictionary, in the order of the table's columns."""
        return asdict(self)


def make_rows(entries: list[Entry], experiment: Experiment) -> list[Row]:
    """One row per entry: differences are to the baseline, compression and agreement to the teacher."""
    stored = {entry.role: entry.stored for entry in entries if entry.stored}
    rows = []
    for entry in entries:
        row = Row(entry.role, entry.model, entry.method, entry.spec.key, precision=entry.spec.precision)
        if entry.stored is None:
            row.status = f"failed: {entry.failure}"
        else:
            _fill(row, entry.stored)
            _compare(row, entry.stored, stored.get("teacher"), stored.get("baseline"))
        rows.append(row)
    if experiment.settings.latency:
        measured = measure(stored, experiment)
        for row in rows:
            row.latency_ms, row.images_per_second = measured.get(row.role, (None, None))
    return rows


def without_test(row: Row) -> Row:
    """The row without what was measured on test images."""
    nothing: dict[str, Any] = dict.fromkeys(ON_TEST_IMAGES)
    return replace(row, **nothing)


def add_published(rows: Sequence[Row], experiment: Experiment, overrides: Sequence[str]) -> list[str]:
    """Adds published accuracies to the rows, unless overrides make it a different experiment; returns remarks on them."""
    if not experiment.config.get("published"):
        return []
    numbers = [reference(experiment.config, row.role, overrides) for row in rows]
    for row, number in zip(rows, numbers, strict=True):
        if number is not None:
            row.published, row.published_std = number.mean, number.std
        if number is not None and row.test_top1 is not None:
            row.standard_errors = number.distance(row.test_top1, None, 1)
    named = [(row.role, number, row.n) for row, number in zip(rows, numbers, strict=True)]
    return list(explain(named, departures(overrides)))


def _fill(row: Row, stored: StoredLearner) -> None:
    result = stored.result
    last, best = result["test"]["last"], result["test"].get("best")
    for name in (
        "parameters",
        "training_only_parameters",
        "macs",
        "size_mb",
        "best_epoch",
        "train_images",
        "train_seconds",
    ):
        setattr(row, name, result[name])
    row.test_top1, row.test_top5 = last["top1"], last.get("top5")
    row.balanced_accuracy, row.class_accuracies = last.get("balanced_accuracy"), last.get("class_accuracies")
    row.nll, row.ece, row.n = last["nll"], last["ece"], 1
    row.best_epoch_test_top1 = best["top1"] if best else None
    if result["history"]:
        row.validation_top1 = result["history"][-1].get("validation_accuracy")


def _compare(row: Row, stored: StoredLearner, teacher: StoredLearner | None, baseline: StoredLearner | None) -> None:
    assert row.parameters is not None
    if teacher is not None and row.role != "teacher":
        row.compression = teacher.result["parameters"] / row.parameters
    if teacher is not None and row.role != "teacher" and teacher.result["test"]["last"]["top1"] is not None:
        row.agreement = agreement(stored.tensors("logits")["last"], teacher.tensors("logits")["last"])
    if baseline is not None and row.role not in ("teacher", "baseline"):
        assert row.test_top1 is not None
        row.difference = 100 * (row.test_top1 - baseline.result["test"]["last"]["top1"])
