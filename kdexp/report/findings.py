"""Possible reasons why a distilled student is no better than its baseline, each with an override to try.

Thresholds and advice were tuned on the embedded digits, where following the advice helped; they are hints, not proofs.
Three things are not reported, because they did no harm there: nearly uniform soft targets, which with the factor T² compare
logits (Kim et al. 2021, arXiv 2105.08919); a teacher's term that outweighs the labels, unless the student stops fitting them;
a teacher that fails on augmented images, whose outputs were worth imitating anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from omegaconf import OmegaConf

from kdexp.configuration.nodes import build
from kdexp.configuration.shipped import conf_dir
from kdexp.experiment.advice import HIGHEST_TEMPERATURE, alternatives, higher_rate, longer, lower_rate, override
from kdexp.report.facts import GREW, Facts
from kdexp.text.numbers import count

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment

MORE_SEEDS = "-m seed=0,1,2,3,4"
SIGNIFICANT = 0.05
FEWEST_ERRORS = 6
"""Errors that a baseline must make for a student to be significantly better: with five, p is at best 2/2⁵ > 5 %."""
SATURATED = 0.99
DROWNED = 50
"""A term whose gradient is this many times that of the labels may keep a student from fitting them."""


class Finding(NamedTuple):
    """A measured fact that may explain the result, and advice."""

    fact: str
    advice: str


def findings(facts: Facts, experiment: Experiment) -> list[Finding]:
    """Possible explanations, most likely first. A decisive one (which would explain all others) is returned alone."""
    decisive = (wrong_order, diverged, mute, no_headroom)
    if found := [finding for explain in decisive if (finding := explain(facts, experiment))]:
        return found
    others = (noise, weak_teacher, poor_fit, faint, sharp)
    found = [finding for explain in others if (finding := explain(facts, experiment))]
    return found or [Finding("No cause was found; the result of one seed may be chance", MORE_SEEDS)]


def wrong_order(facts: Facts, _experiment: Experiment) -> Finding | None:
    """The teacher numbers the classes differently."""
    if not facts.teacher_reordered or facts.teacher_test is None:
        return None
    fact = f"The teacher seems to have its classes in another order: {percent(facts.teacher_test)}, {facts.teacher_reordered}"
    return Finding(fact, "class folders named so that they sort as in its checkpoint, or the rows of its last layer reordered")


def diverged(facts: Facts, experiment: Experiment) -> Finding | None:
    """The student's loss rose, or is not a number."""
    before, after = facts.objective_before, facts.objective_after
    if before is None or after is None or after <= GREW * before:
        return None
    fact = f"The student diverged: its loss rose from {before:.3g} to {after:.3g}"
    if drowned := drowning(facts):
        return Finding(f"{fact}, and {outweighs(*drowned)}", balancing(*drowned, experiment))
    return Finding(fact, lower_rate(experiment.config, "optimizer"))


def mute(facts: Facts, experiment: Experiment) -> Finding | None:
    """No term that uses the teacher has a gradient."""
    norms, node = facts.gradients_before, experiment.config["distillation"]
    if not norms or any(norm for name, norm in norms.items() if name != "ce"):
        return None
    distiller = build(node)
    if not distiller.kd_weight and not (distiller.weight and "weight" in node):
        ways = [("distillation.weight", usual_weight(experiment))] if "weight" in node else []
        ways += [("distillation.kd_weight", 1)] if node["alpha"] is None else [("distillation.alpha", 0.1)]
        return Finding("The teacher's terms have no weight", override(experiment.config, *ways[0]))
    other = "hint" if experiment.config["choices"].get("distillation") == "kd" else "kd"
    return Finding(
        "The teacher's terms have weight, but no gradient with respect to the student", f"another method: distillation={other}"
    )


def usual_weight(experiment: Experiment) -> float:
    """The default weight in the method's YAML file, 1 if it is not a method of kdexp."""
    path = Path(conf_dir()) / "distillation" / f"{experiment.config['choices'].get('distillation')}.yaml"
    return float(OmegaConf.select(OmegaConf.load(path), "weight", default=1) if path.is_file() else 1)


def no_headroom(facts: Facts, experiment: Experiment) -> Finding | None:
    """The baseline makes too few mistakes for a better student to be noticed, and this one is not worse."""
    if facts.chance <= SIGNIFICANT or not saturated(facts):
        return None
    fact = f"The baseline is already at {percent(facts.baseline_test)}: nothing left to gain"
    return Finding(fact, alternatives(["harder data", fewer_images(experiment)]))


def saturated(facts: Facts) -> bool:
    """Whether the baseline classifies all test images correctly, or all but a few."""
    return facts.baseline_test >= SATURATED and round((1 - facts.baseline_test) * facts.test_images) < FEWEST_ERRORS


def fewer_images(experiment: Experiment) -> str:
    """Override for a smaller share of the images, empty if a class would lose all its images."""
    if experiment.dataset.labels is not None:
        return ""
    share = experiment.dataset.student_fraction
    less = 0.1 if share > 0.1 else share / 10
    smallest = int(torch.bincount(experiment.data.train.labels).min())
    return override(experiment.config, "dataset.student_fraction", less) if round(less * smallest) > 1 else ""


def noise(facts: Facts, _experiment: Experiment) -> Finding | None:
    """The students differ on too few test images, or too evenly."""
    if facts.chance <= SIGNIFICANT:
        return None
    if not facts.gained + facts.lost:
        return Finding("Not significant: both students classify the same test images correctly", MORE_SEEDS)
    images = f"it wins {count(facts.gained, 'test image')}, the baseline {facts.lost:,}"
    if facts.gained == facts.lost:
        images = f"each wins {count(facts.gained, 'test image')}"
    return Finding(f"Not significant: {images} (p = {facts.chance:.2f})", MORE_SEEDS)


def weak_teacher(facts: Facts, experiment: Experiment) -> Finding | None:
    """The teacher makes almost as many mistakes as the baseline, or more."""
    if facts.teacher_test is None or 1 - facts.teacher_test < 0.9 * (1 - facts.baseline_test) or saturated(facts):
        return None
    config = experiment.config
    fact = f"The teacher is hardly better than the baseline: {percent(facts.teacher_test)} to {percent(facts.baseline_test)}"
    if facts.teacher_test <= facts.baseline_test:
        fact = f"The teacher is no better than the baseline: {percent(facts.teacher_test)} to {percent(facts.baseline_test)}"
    if facts.teacher_diverged:
        return Finding(f"{fact}; its training diverged", lower_rate(config, "teacher_optimizer"))
    if (facts.teacher_train or 0.0) > 0.99:
        return Finding(
            f"{fact}, though it fits the training images", alternatives(["a larger teacher", fewer_images(experiment)])
        )
    if config["teacher"].get("checkpoint"):
        return Finding(fact, "the dataset.mean and dataset.std that its checkpoint was trained with, or another teacher")
    return Finding(fact, alternatives([longer(config, "teacher_epochs", 4), "another teacher"]))


def poor_fit(facts: Facts, experiment: Experiment) -> Finding | None:
    """The student fits its training images less well than its teacher, and than the baseline or 95 %."""
    reached, taught = max(facts.baseline_train, 0.96), facts.teacher_train
    if facts.distilled_train >= min(reached if taught is None else taught, reached) - 0.01:
        return None
    others = f"baseline {percent(facts.baseline_train, 1)}" + ("" if taught is None else f", teacher {percent(taught, 1)}")
    fit = f"The student underfits ({percent(facts.distilled_train, 1)} on training images; {others})"
    if drowned := drowning(facts):
        return Finding(f"{fit}: {outweighs(*drowned)}", balancing(*drowned, experiment))
    config, more = experiment.config, more_epochs(facts, experiment)
    if facts.late_progress is not None and facts.late_progress < 0.01:
        if facts.distilled_train < facts.majority_train + 0.02:
            chance = 1 / experiment.shape.num_classes
            known = percent(facts.majority_train, 1)
            known += f"; chance {percent(chance, 1)}" if percent(chance, 1) != known else ""
            fact = f"{fit}: it knows no more than the largest class ({known}), and its loss is flat"
            return Finding(fact, lower_rate(config, "optimizer"))
        larger = facts.parameter_ratio > 1
        # Mirzadeh et al. 2020, arXiv 1902.03393.
        between = (
            f"{', and the teacher has ' + format(facts.parameter_ratio, '.1f') + ' times its parameters' if larger else ''}"
        )
        ways = [more, "a larger student", "a teacher of a size in between" if larger else ""]
        return Finding(f"{fit}; its loss is flat{between}", alternatives(ways))
    state = "after a single epoch" if facts.late_progress is None else "its loss still falls"
    return Finding(f"{fit}; {state}", alternatives([more, higher_rate(config, "optimizer")]) or "a larger student")


def more_epochs(facts: Facts, experiment: Experiment) -> str:
    """More epochs for the students (Beyer et al. 2022, arXiv 2106.05237), but not for a teacher that fits all its images."""
    settings = experiment.settings
    more = longer(experiment.config, "epochs", 10 if facts.distilled_train < 0.9 else 4)
    follows = more and settings.teacher_epochs == settings.epochs and (facts.teacher_train or 0.0) > 0.99
    return f"{more} teacher_epochs={settings.teacher_epochs}" if follows else more


def faint(facts: Facts, experiment: Experiment) -> Finding | None:
    """A term that uses the teacher is negligible next to that of the labels."""
    for name, ratio in ratios(facts).items():
        if 0 < ratio < 1 / 20:
            return Finding(f"CE outweighs {name!r} {1 / ratio:.0f}:1 at the start", balancing(name, ratio, experiment))
    return None


def sharp(facts: Facts, experiment: Experiment) -> Finding | None:
    """The soft targets are nearly one-hot."""
    if facts.entropy_share is None or facts.softer_temperature is None or facts.entropy_share > 0.05:
        return None
    fact = f"At T={facts.temperature:g} the soft targets are as hard as labels (entropy {facts.entropy:.2g} nats)"
    if facts.softer_temperature > HIGHEST_TEMPERATURE:
        return Finding(fact, "another teacher: no usual temperature softens this one's logits")
    # Softer targets take longer to fit: alone they set back a student that has not fitted these.
    patience = ", together with the advice above" if poor_fit(facts, experiment) else ""
    softer = override(experiment.config, "distillation.temperature", facts.softer_temperature)
    return Finding(fact, (softer or "a higher distillation.temperature") + patience)


def drowning(facts: Facts) -> tuple[str, float] | None:
    """The term that keeps the student from fitting the labels, and its gradient as a multiple of that of the labels."""
    name, ratio = max(ratios(facts).items(), key=lambda item: (item[0] != "kd", item[1]), default=("kd", 0.0))
    drowned = name != "kd" and ratio > DROWNED and facts.distilled_train < facts.baseline_train - 0.05
    return (name, ratio) if drowned else None


def outweighs(name: str, ratio: float) -> str:
    """Clause of a sentence: a term outweighs the labels."""
    return f"{name!r} outweighs CE {ratio:.0f}:1"


def ratios(facts: Facts) -> dict[str, float]:
    """Gradients of the terms that use the teacher, as multiples of that of `ce`, before training; empty without labels."""
    labels = facts.gradients_before.get("ce", 0.0)
    return {name: norm / labels for name, norm in facts.gradients_before.items() if name != "ce" and labels}


def balancing(name: str, ratio: float, experiment: Experiment) -> str:
    """The override that makes a term's gradient about as large as that of `ce`; now it is `ratio` times as large."""
    config: dict[str, Any] = experiment.config
    node, distiller = config["distillation"], build(config["distillation"])
    if name == "kd" and distiller.kd_weight and node["alpha"] is not None:
        per_weight = ratio * distiller.ce_weight / distiller.kd_weight
        alpha = per_weight / (1 + per_weight)
        advice = override(config, "distillation.alpha", min(int(100 * alpha) / 100 or max(alpha, 0.001), 0.99))
    elif name == "kd" and distiller.kd_weight:
        advice = override(config, "distillation.kd_weight", distiller.kd_weight / ratio)
    else:
        advice = override(config, "distillation.weight", distiller.weight / ratio) if "weight" in node else ""
    return advice or f"another weight for {name!r}"


def percent(share: float, digits: int = 2) -> str:
    """A fraction of 1 in percent."""
    return f"{100 * share:.{digits}f} %"
