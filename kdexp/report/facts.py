"""What can be measured about a finished distillation: on test answers, training images, soft targets and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.data.batch import Batch
from kdexp.deployment.rebuild import deployed_network
from kdexp.device.precision import on_device
from kdexp.distillation.base import Distiller, Progress
from kdexp.network.capture import Outputs
from kdexp.network.layers import evaluating
from kdexp.store.stored import StoredLearner
from kdexp.tasks.classification import chance_of_split, correct, only_one_right
from kdexp.tasks.judgement import Judgement
from kdexp.training.learner import Learner
from kdexp.training.prepare import prepare

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.training.entry import Entry

IMAGES = 1000
"""About so many training images are looked at."""
GRADIENT_BATCHES = 2
GREW = 1.2
"""A loss that is so many times what it was, or what a guess would give, has not merely stood still."""
SOFT = 0.5
"""The entropy of soft targets, as a share of log K, that `softening_temperature` aims at."""


@dataclass(frozen=True)
class Facts:
    """Accuracies and shares are of 1, `difference` is in points; "train" is on the student's training images as it saw them."""

    difference: float
    """Test accuracy, distilled student minus baseline."""
    gained: int
    """Test images that only the distilled student has right."""
    lost: int
    """Test images that only the baseline has right."""
    chance: float
    """How often two equally good students would part so unevenly on the images that only one of them has right."""
    test_images: int
    teacher_reordered: str
    """What speaks for the teacher's classes being in another order than the labels; empty if nothing does."""
    teacher_diverged: bool
    """Whether it was trained here and is worse off than before: its loss exceeds a guess's, log K, or rose over the epochs."""
    teacher_test: float | None
    """None, as `teacher_train` and `confidence`, where its classifier is not used."""
    baseline_test: float
    distilled_test: float
    train_images: int
    majority_train: float
    """The share of the largest class."""
    teacher_train: float | None
    baseline_train: float
    distilled_train: float
    confidence: float | None
    """The teacher's mean largest probability at temperature 1, on the training images."""
    temperature: float | None
    """Of the soft targets; None, as the next three, where the objective has none."""
    entropy: float | None
    """Of the soft targets, in nats, averaged over the training images."""
    entropy_share: float | None
    """The same as a share of its largest value, log K."""
    softer_temperature: float | None
    """Where that share would be `SOFT`."""
    late_progress: float | None
    """Which share of the training loss's whole fall came in the last tenth of the epochs; None for a single epoch."""
    objective_before: float | None
    """The student's loss on some batches when it was untrained; None for a method that takes steps of its own."""
    objective_after: float | None
    """The same once it was trained."""
    parameter_ratio: float
    """The teacher's parameters per student's."""
    gradients_before: dict[str, float]
    """Norm of each weighted term's gradient by the student's parameters, at the untrained student; may be empty."""
    gradients_after: dict[str, float]
    """The same at the trained student."""


def measure(entries: Sequence[Entry], experiment: Experiment) -> Facts:
    """Facts about a run whose teacher, baseline and distilled student are all stored; leaves everything as it was."""
    stored = {entry.role: entry.stored for entry in entries if entry.stored}
    teacher, baseline, distilled = (stored[role] for role in ("teacher", "baseline", "distilled"))
    teacher_test, baseline_test, distilled_test = (one.result["test"]["last"]["top1"] for one in (teacher, baseline, distilled))
    ours, theirs = distilled.tensors("logits"), baseline.tensors("logits")
    gained, lost = only_one_right(ours["last"], theirs["last"], ours["labels"])
    judgement = Judgement.of(teacher.tensors("logits")["last"], ours["labels"])
    entry = next(entry for entry in entries if entry.role == "distilled")
    return Facts(
        difference=100 * (distilled_test - baseline_test),
        gained=gained,
        lost=lost,
        chance=chance_of_split(gained, lost),
        test_images=len(ours["labels"]),
        teacher_reordered=judgement.evidence if teacher_test is not None and judgement.reordered else "",
        teacher_test=teacher_test,
        baseline_test=baseline_test,
        distilled_test=distilled_test,
        late_progress=late_progress([row["loss"] for row in distilled.result["history"]]),
        parameter_ratio=teacher.result["parameters"] / distilled.result["parameters"],
        **_on_training_images(entry, stored, experiment, answering=teacher_test is not None),
    )


def _on_training_images(entry: Entry, stored: Mapping[str, StoredLearner], experiment: Experiment, *, answering: bool) -> dict:
    """The facts that need the networks themselves, freshly built: nothing that a run keeps is touched.

    `answering` is whether the teacher's classifier was trained.
    """
    precision = replace(experiment.precision, compile=False, graph=False)  # too few batches for these to pay
    (learner,), teacher = prepare(
        [entry], experiment.teacher_network([entry]), experiment.shape, precision, experiment.split_of(entry).labels
    )
    assert teacher is not None
    spec, split = entry.spec, experiment.data.student_train
    limit = min(-(-IMAGES // spec.batch_size), spec.limit_batches or IMAGES)
    first_epoch = split.epoch(spec.seed, 0, limit * spec.batch_size)
    batches = list(split.batches_of(first_epoch, spec.batch_size))
    labels = torch.cat([batch.label for batch in batches])
    source = experiment.lookup_source([entry], teacher.model)
    if table := source.cache.find(source.key, teacher.capture.layers):
        teacher.use(table)
        teacher.see(split, first_epoch)
    asked = [(batch, teacher(batch)) for batch in batches[:GRADIENT_BATCHES]]
    rest = [teacher(batch).logits for batch in batches[GRADIENT_BATCHES:]]
    answers = torch.cat([*(outputs.logits for _, outputs in asked), *rest])
    # A term that a method warms up is weighed as it is halfway.
    halfway = Progress(spec.epochs / 2, spec.epochs, step=spec.epochs * split.steps(spec.batch_size, spec.limit_batches) // 2)
    objective_before, before = objective(learner, asked, halfway), gradient_norms(learner, asked, halfway)
    learner.load_state_dict(stored["distilled"].tensors("last"))
    losses = [row["loss"] for row in stored["teacher"].result["history"]]
    lost = not F.cross_entropy(answers, labels) <= GREW * math.log(experiment.shape.num_classes)  # nan included
    return {
        "train_images": len(labels),
        "majority_train": float(torch.bincount(labels).max()) / len(labels),
        "teacher_diverged": answering and bool(losses) and (lost or not losses[-1] <= losses[0]),
        "objective_before": objective_before,
        "objective_after": objective(learner, asked, halfway),
        "teacher_train": float(correct(answers, labels)) / len(labels) if answering else None,
        "baseline_train": _accuracy(stored["baseline"], batches, experiment),
        "distilled_train": _accuracy(stored["distilled"], batches, experiment),
        "confidence": float(answers.softmax(1).max(1).values.mean()) if answering else None,
        **_softness(answers.cpu(), learner.distiller.temperature if learner.distiller.kd_weight else None),
        "gradients_before": before,
        "gradients_after": gradient_norms(learner, asked, halfway),
    }


def _accuracy(stored: StoredLearner, batches: Sequence[Batch], experiment: Experiment) -> float:
    network = on_device(deployed_network(stored), experiment.precision)
    with evaluating(network), experiment.precision.autocast():
        hits = sum(float(correct(network(batch.image), batch.label)) for batch in batches)
    return hits / sum(len(batch.label) for batch in batches)


def gradient_norms(learner: Learner, asked: Sequence[tuple[Batch, Outputs]], progress: Progress) -> dict[str, float]:
    """Euclidean norm of each weighted term's gradient by the student's parameters, averaged over the batches.

    `asked` are batches with the teacher's outputs. Empty for a method that takes steps of its own.
    """
    if type(learner.distiller).update is not Distiller.update:
        return {}
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    norms: dict[str, float] = {}
    learner.train()
    for batch, teacher in asked:
        with learner.stream:
            terms = learner.distiller.losses(batch, learner.forward(batch.image), teacher, progress)
        for name, term in terms.items():
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            square = sum(float(part.square().sum()) for part in found if part is not None)
            norms[name] = norms.get(name, 0.0) + square**0.5 / len(asked)
    return norms


def objective(learner: Learner, asked: Sequence[tuple[Batch, Outputs]], progress: Progress) -> float | None:
    """The learner's loss, averaged over batches with the teacher's outputs; None for a method that takes steps of its own."""
    if type(learner.distiller).update is not Distiller.update:
        return None
    learner.train()
    with learner.stream, torch.no_grad():
        values = [learner.distiller.losses(b, learner.forward(b.image), teacher, progress).values() for b, teacher in asked]
    return sum(float(term) for terms in values for term in terms) / len(asked)


def entropy(logits: Tensor, temperature: float) -> float:
    """Mean entropy in nats of the soft targets that logits [N, K] give at a temperature."""
    log_p = F.log_softmax(logits.double() / temperature, dim=1)
    return float(-(log_p.exp() * log_p).sum(1).mean())


def softening_temperature(logits: Tensor, share: float) -> float:
    """The temperature at which the mean entropy of the soft targets is that share of log K, by bisection."""
    wanted = share * math.log(logits.shape[1])
    low, high = 1e-3, 1e6
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if entropy(logits, middle) < wanted else (low, middle)
    return high


def _softness(logits: Tensor, temperature: float | None) -> dict[str, float | None]:
    if temperature is None:
        return dict.fromkeys(("temperature", "entropy", "entropy_share", "softer_temperature"))
    nats = entropy(logits, temperature)
    share = nats / math.log(logits.shape[1])
    softer = softening_temperature(logits, SOFT)
    return {"temperature": temperature, "entropy": nats, "entropy_share": share, "softer_temperature": softer}


def late_progress(losses: Sequence[float]) -> float | None:
    """Which share of a loss's whole fall its last tenth of the epochs brought; 0 without a fall, None for a single epoch."""
    span = max(1, len(losses) // 10)
    if len(losses) == 1:
        return None
    late, whole = losses[-1 - span] - losses[-1], losses[0] - losses[-1]
    return max(0.0, late / whole) if whole > 0 else 0.0
