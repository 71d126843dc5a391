"""The diagnosis below the table: measured reasons why a distilled student may be no better than its baseline."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.files import write_whole
from kdexp.report.facts import SOFT, Facts, measure
from kdexp.report.findings import Finding, findings, percent
from kdexp.text.numbers import written

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.training.entry import Entry

MOST = 3
"""Findings that are shown at most."""
WIDTH = 80
HEADING = "Why is the distilled student no better? Measured, and → what to try:"


def diagnose(entries: Sequence[Entry], experiment: Experiment, folder: Path) -> list[str]:
    """Writes `diagnosis.json` and returns the lines to print; does nothing if not requested or nothing can be compared.

    With `diagnosis=auto` a distilled student is diagnosed only if it is no better than its baseline on the test images.
    """
    mode, stored = experiment.settings.diagnosis, {entry.role: entry.stored for entry in entries if entry.stored}
    taught = any(entry.role == "distilled" and entry.spec.teacher for entry in entries)
    if mode == "never" or not taught or not {"teacher", "baseline", "distilled"} <= set(stored):
        return []
    better = stored["distilled"].result["test"]["last"]["top1"] > stored["baseline"].result["test"]["last"]["top1"]
    if better and mode == "auto":
        return []
    facts = measure(entries, experiment)
    found = findings(facts, experiment) if not better else []
    content = {"facts": asdict(facts), "findings": [finding._asdict() for finding in found]}
    write_whole(folder / "diagnosis.json", json.dumps(content, indent=1))
    return block(facts, found, every_fact=mode == "always")


def block(facts: Facts, found: Sequence[Finding], *, every_fact: bool) -> list[str]:
    """Lines of the findings, wrapped at `WIDTH` characters; with `every_fact` all measurements come first."""
    lines = sentences(facts) if every_fact else []
    if found:
        lines += [HEADING, *(line for fact, advice in found[:MOST] for line in (f"- {fact}", f"  → {advice}"))]
    return ["", *(part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))]


def sentences(facts: Facts) -> list[str]:
    """All measurements as sentences."""
    test = ", ".join(map(_share, (facts.teacher_test, facts.baseline_test, facts.distilled_test)))
    train = ", ".join(map(_share, (facts.teacher_train, facts.baseline_train, facts.distilled_train)))
    found = [
        f"Test accuracy of teacher, baseline and distilled student: {test}; on {facts.train_images:,} training images as "
        f"students saw them: {train} (their largest class: {percent(facts.majority_train)}).",
        f"Of {facts.test_images:,} test images only the distilled student classifies {facts.gained:,} correctly, only the "
        f"baseline {facts.lost:,} (p = {facts.chance:.2f}).",
        f"The teacher's mean confidence is {written(facts.confidence, '.3f')}; it has {facts.parameter_ratio:,.1f} times the "
        "student's parameters.",
    ]
    if facts.entropy is not None and facts.entropy_share is not None:
        found.append(
            f"Soft targets at T={facts.temperature:g} have an entropy of {facts.entropy:.3g} nats, "
            f"{100 * facts.entropy_share:.0f} % of the largest ({100 * SOFT:.0f} % at T={facts.softer_temperature:.2g})."
        )
    for when, norms in (("before", facts.gradients_before), ("after", facts.gradients_after)):
        if norms:
            words = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
            found.append(f"Norms of the terms' gradients {when} training: {words}.")
    if facts.objective_before is not None and facts.objective_after is not None:
        found.append(f"The student's loss was {facts.objective_before:.3g} before training, {facts.objective_after:.3g} after.")
    if facts.late_progress is not None:
        found.append(f"In the last tenth of the epochs the loss fell by {100 * facts.late_progress:.1f} % of its total drop.")
    return found


def _share(value: float | None) -> str:
    return written(None if value is None else 100 * value, ".2f") + ("" if value is None else " %")
