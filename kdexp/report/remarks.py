"""The remarks under the table of a run, which readers need to interpret it."""

from __future__ import annotations

from kdexp.configuration.roles import EXPLAINED
from kdexp.device.precision import BF16_SPEED_UPS, cpu_computes_bf16
from kdexp.experiment.experiment import Experiment
from kdexp.report.averaged import averaged_words
from kdexp.report.few_labels import label_remark
from kdexp.report.origin import REPEAT
from kdexp.training.entry import Entry

LONG = 60.0
"""Seconds of training from which a run's remarks name what would be faster."""


def remarks(entries: list[Entry], experiment: Experiment) -> list[str]:
    """The remarks, in the order in which they are printed."""
    lines = [f"{entry.role} failed: {entry.failure}" for entry in entries if entry.failure]
    lines += [_training_only(entry) for entry in entries if entry.stored and entry.stored.result["training_only_parameters"]]
    lines += [EXPLAINED[entry.role] for entry in entries if entry.role in EXPLAINED]
    lines += dict.fromkeys(averaged_words(entry.spec.averaging["decay"]) for entry in entries if entry.spec.averaging)
    lines += [_teaches_features(entry) for entry in entries if entry.role == "teacher" and _has_no_accuracy(entry)]
    student = experiment.config["student"]
    if start := student.get("checkpoint") or student.get("weights"):
        lines.append(f"The student starts from trained weights ({start}): its baseline is plain transfer learning.")
    data, share = experiment.data, experiment.dataset.student_fraction
    if share < 1:
        seen, total = len(data.student_train), len(data.train)
        lines.append(f"Students saw {seen:,} of the teacher's {total:,} images (dataset.student_fraction={share:g}).")
    if few := label_remark([entry.stored.result for entry in entries if entry.stored]):
        lines.append(few)
    lines.append(f"Test accuracy on {len(data.test):,} images after the last epoch, {experiment.where}.")
    lines.append(REPEAT)
    if _would_gain_by_bf16(entries, experiment):
        least, most = BF16_SPEED_UPS
        lines.append(
            "This CPU computes bf16 itself: precision=bf16 fast=true may well be faster "
            f"({least:g} to {most:g} times in the trainings of docs/speed.md), and rounds differently."
        )
    return lines


def _would_gain_by_bf16(entries: list[Entry], experiment: Experiment) -> bool:
    """Whether the run trained for long in fp32, by default, on a CPU that has bf16 arithmetic."""
    trained = [entry.stored.result["train_seconds"] for entry in entries if entry.stored and not entry.reused]
    usual = experiment.config["precision"] == "auto" and experiment.precision.name == "fp32" and not experiment.precision.fast
    return usual and experiment.device.type == "cpu" and sum(trained) > LONG and cpu_computes_bf16()


def _has_no_accuracy(entry: Entry) -> bool:
    return entry.stored is not None and entry.stored.result["test"]["last"]["top1"] is None


def _teaches_features(entry: Entry) -> str:
    return f"The teacher {entry.model} has no classifier for these classes: it teaches features, and its row has no accuracy."


def _training_only(entry: Entry) -> str:
    assert entry.stored is not None
    extra = entry.stored.result["training_only_parameters"]
    return (
        f"{entry.role} trained {entry.stored.result['parameters'] + extra:,} parameters, {extra:,} of them only for training."
    )
