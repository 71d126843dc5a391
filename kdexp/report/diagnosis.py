"""Why a distilled student may be no better than its baseline: what was measured, and what to try.

Thresholds and advice were settled on the embedded digits, where following the advice helped; they are hints, not proofs.
No findings, for there they did no harm: nearly uniform soft targets, which with the factor T² compare logits (Kim et al. 2021,
arXiv 2105.08919); a teacher's term that outweighs the labels, unless the student stops fitting them; a teacher that fails on
augmented images, whose answers were worth imitating all the same.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdexp.config import build
from kdexp.files import write_whole
from kdexp.report.facts import SOFT, Facts, measure
from kdexp.report.table import written

if TYPE_CHECKING:
    from kdexp.experiment import Experiment
    from kdexp.plan import Entry

MOST = 3
"""So many findings are shown."""
WIDTH = 80
HEADING = "Why is the distilled student no better? Measured, and → what to try:"
MORE_SEEDS = "-m seed=0,1,2,3,4"


class Finding(NamedTuple):
    """A measured fact that may explain the result, and what to try."""

    fact: str
    advice: str


def diagnose(entries: Sequence[Entry], experiment: Experiment, folder: Path) -> list[str]:
    """The lines to print, and `diagnosis.json` in the folder; nothing if it was not asked for or there is no comparison.

    Under `diagnosis=auto` only a distilled student that is no better than its baseline on the test images is looked at.
    """
    wanted, stored = experiment.settings.diagnosis, {entry.role: entry.stored for entry in entries if entry.stored}
    taught = any(entry.role == "distilled" and entry.spec.teacher for entry in entries)
    if wanted == "never" or not taught or not {"teacher", "baseline", "distilled"} <= set(stored):
        return []
    better = stored["distilled"].result["test"]["last"]["top1"] > stored["baseline"].result["test"]["last"]["top1"]
    if better and wanted == "auto":
        return []
    facts = measure(entries, experiment)
    found = findings(facts, experiment) if not better else []
    told_in_full = {"facts": asdict(facts), "findings": [finding._asdict() for finding in found]}
    write_whole(folder / "diagnosis.json", json.dumps(told_in_full, indent=1))
    return block(facts, found, every_fact=wanted == "always")


def block(facts: Facts, found: Sequence[Finding], *, every_fact: bool) -> list[str]:
    """The findings in at most `WIDTH` columns; under `every_fact` everything that was measured, too."""
    lines = told(facts) if every_fact else []
    if found:
        lines += [HEADING, *(line for fact, advice in found[:MOST] for line in (f"- {fact}", f"  → {advice}"))]
    return ["", *(part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))]


def told(facts: Facts) -> list[str]:
    """Everything that was measured, in sentences."""
    test = (facts.teacher_test, facts.baseline_test, facts.distilled_test)
    train = (facts.teacher_train, facts.baseline_train, facts.distilled_train)
    sentences = [
        "Teacher, baseline and distilled student are right on {}, {}, {} of the test images".format(*map(_share, test))
        + f" and, of {facts.train_images} training images as students saw them,"
        + " on {}, {}, {}.".format(*map(_share, train)),
        f"Only the baseline is right on {facts.lost} test images, only the distilled student on {facts.gained} "
        f"(equal students part so unevenly {facts.chance:.0%} of the time).",
        f"The teacher's mean confidence is {written(facts.confidence, '.3f')}, it has {facts.parameter_ratio:.1f} times the "
        "parameters.",
    ]
    if facts.entropy is not None:
        sentences.append(
            f"Soft targets at T={facts.temperature:g} have an entropy of {facts.entropy:.3g} nats, "
            f"{facts.entropy_share:.0%} of the largest ({SOFT:.0%} at T={facts.softer_temperature:.2g})."
        )
    for when, norms in (("before", facts.gradients_before), ("after", facts.gradients_after)):
        if norms:
            words = ", ".join(f"{name} {norm:.3g}" for name, norm in norms.items())
            sentences.append(f"Norms of the terms' gradients {when} training: {words}.")
    if facts.late_progress is not None:
        sentences.append(f"The last tenth of the epochs brought {facts.late_progress:.1%} of the loss's fall.")
    return sentences


def _share(value: float | None) -> str:
    return written(value, ".2%")


def findings(facts: Facts, experiment: Experiment) -> list[Finding]:
    """What may explain a student that is no better, the most telling first."""
    looks = (noise, mute, weak_teacher, poor_fit, faint, sharp)
    found = [finding for look in looks if (finding := look(facts, experiment))]
    return found or [Finding("Nothing that was measured stands out; one seed may be unlucky", MORE_SEEDS)]


def noise(facts: Facts, _experiment: Experiment) -> Finding | None:
    """The students part on too few test images, or too evenly."""
    if facts.chance <= 0.05:
        return None
    if not facts.gained + facts.lost:
        return Finding("Within noise: both students are right on the same test images", MORE_SEEDS)
    counts = f"it alone is right on {facts.gained} test images, the baseline alone on {facts.lost}"
    return Finding(f"Within noise: {counts}; chance alone does that {facts.chance:.0%} of the time", MORE_SEEDS)


def mute(facts: Facts, experiment: Experiment) -> Finding | None:
    """No term of the teacher's moves the student."""
    norms, node = facts.gradients_before, experiment.config["distillation"]
    if not norms or any(norm for name, norm in norms.items() if name != "ce"):
        return None
    advice = "distillation.kd_weight=1" if node["alpha"] is None else "distillation.alpha=0.1"
    return Finding("Nothing of the teacher moves the student", "distillation.weight=1" if "weight" in node else advice)


def weak_teacher(facts: Facts, experiment: Experiment) -> Finding | None:
    """The teacher makes almost as many mistakes as the baseline, or more."""
    if facts.teacher_test is None or 1 - facts.teacher_test < 0.9 * (1 - facts.baseline_test):
        return None
    fact = f"The teacher is right on {facts.teacher_test:.2%} of the test images, the baseline on {facts.baseline_test:.2%}"
    if experiment.config["teacher"].get("checkpoint"):
        return Finding(fact, "the dataset.mean and dataset.std that its checkpoint was trained with, or another teacher")
    return Finding(fact, f"teacher_epochs={4 * experiment.settings.teacher_epochs}, or another teacher")


def poor_fit(facts: Facts, experiment: Experiment) -> Finding | None:
    """The student fits its training images less well than its teacher, and than the baseline or 95 %."""
    reached = max(facts.baseline_train, 0.96)
    if facts.distilled_train >= min(reached if facts.teacher_train is None else facts.teacher_train, reached) - 0.01:
        return None
    rest = f"(baseline {facts.baseline_train:.1%}, teacher {written(facts.teacher_train, '.1%')})"
    fit = f"It is right on {facts.distilled_train:.1%} of its own training images {rest}"
    ratio, name = max(((ratio, name) for name, ratio in ratios(facts).items() if name != "kd"), default=(0.0, ""))
    if ratio > 50 and facts.distilled_train < facts.baseline_train - 0.05:
        return Finding(f"{fit}, for {name}'s gradient is {ratio:.0f} times that of ce", balancing(name, ratio, experiment))
    longer = _longer(facts, experiment)
    if facts.late_progress is not None and facts.late_progress < 0.01:
        # Mirzadeh et al. 2020, arXiv 1902.03393.
        fact = f"{fit}, its loss is flat, and the teacher has {facts.parameter_ratio:.1f} times its parameters"
        return Finding(fact, f"{longer}, a larger student, or a teacher of a size in between")
    state = "after a single epoch" if facts.late_progress is None else "and its loss still falls"
    return Finding(f"{fit}, {state}", f"{longer}, or optimizer.lr={rounded(3 * experiment.config['optimizer']['lr'])}")


def _longer(facts: Facts, experiment: Experiment) -> str:
    """More epochs for the students (Beyer et al. 2022, arXiv 2106.05237), not for a teacher that knows all its images."""
    settings = experiment.settings
    follows = settings.teacher_epochs == settings.epochs and (facts.teacher_train or 0.0) > 0.99
    same_teacher = f" teacher_epochs={settings.teacher_epochs}" if follows else ""
    return f"epochs={settings.epochs * (10 if facts.distilled_train < 0.9 else 4)}{same_teacher}"


def faint(facts: Facts, experiment: Experiment) -> Finding | None:
    """A term of the teacher's is next to nothing beside that of the labels."""
    for name, ratio in ratios(facts).items():
        if 0 < ratio < 1 / 20:
            fact = f"At the start {name}'s gradient is 1/{1 / ratio:.0f} of that of ce"
            return Finding(fact, balancing(name, ratio, experiment))
    return None


def sharp(facts: Facts, experiment: Experiment) -> Finding | None:
    """The soft targets are as good as labels."""
    if facts.entropy_share is None or facts.softer_temperature is None or facts.entropy_share > 0.05:
        return None
    fact = f"At T={facts.temperature:g} the soft targets are labels again: their entropy is {facts.entropy:.2g} nats"
    # Softer targets take longer to fit: alone they set back a student that has not fitted these.
    patience = ", together with the advice above" if poor_fit(facts, experiment) else ""
    return Finding(fact, f"distillation.temperature={rounded(facts.softer_temperature)}{patience}")


def ratios(facts: Facts) -> dict[str, float]:
    """The gradients of the teacher's terms as multiples of that of `ce`, before training; empty without labels."""
    labels = facts.gradients_before.get("ce", 0.0)
    return {name: norm / labels for name, norm in facts.gradients_before.items() if name != "ce" and labels}


def balancing(name: str, ratio: float, experiment: Experiment) -> str:
    """The override that makes a term's gradient about as large as that of `ce`, where it was `ratio` times it."""
    node = experiment.config["distillation"]
    distiller = build(node)
    if name == "kd" and node["alpha"] is not None:
        per_weight = ratio * distiller.ce_weight / distiller.kd_weight
        return f"distillation.alpha={int(100 * per_weight / (1 + per_weight)) / 100:g}"
    if name == "kd":
        return f"distillation.kd_weight={rounded(distiller.kd_weight / ratio)}"
    return f"distillation.weight={rounded(distiller.weight / ratio)}" if "weight" in node else f"another weight for {name}"


def rounded(value: float) -> str:
    """The value with two significant digits, as it is typed."""
    return f"{float(f'{value:.2g}'):g}"
