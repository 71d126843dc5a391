"""Measurements of a finished distillation: on test logits, training images, soft targets and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.data.batch import Batch
from kdexp.data.views import MIXED, VIEWS, WEAK
from kdexp.deployment.rebuild import deployed_network
from kdexp.device.precision import on_device
from kdexp.distillation.base import Distiller, Progress
from kdexp.network.capture import Outputs
from kdexp.network.layers import evaluating
from kdexp.store.stored import StoredLearner
from kdexp.tasks.classification import chance_of_split, correct, only_one_right
from kdexp.tasks.judgement import Judgement
from kdexp.teacher.frozen import Teacher
from kdexp.training.learner import Learner
from kdexp.training.prepare import prepare

if TYPE_CHECKING:
    from kdexp.experiment.experiment import Experiment
    from kdexp.training.entry import Entry

IMAGES = 1000
"""Approximate number of training images that are used."""
GRADIENT_BATCHES = 2
GREW = 1.2
"""A loss this many times its earlier value, or the value of a uniform guess, counts as diverged."""
SOFT = 0.5
"""Entropy of the soft targets, as a share of log K, for which `softer_temperature` is computed."""


@dataclass(frozen=True)
class Facts:
    """Measurements of one run. Accuracies and shares are fractions of 1, `difference` is in points.

    `*_train` values are computed on training images with the augmentation that the student had.
    """

    difference: float
    """Test accuracy, distilled student minus baseline."""
    gained: int
    """Test images that only the distilled student classifies correctly."""
    lost: int
    """Test images that only the baseline classifies correctly."""
    chance: float
    """p-value of the split into `gained` and `lost` if both students were equally good."""
    test_images: int
    teacher_reordered: str
    """Evidence that the teacher orders its classes differently from the labels; empty if there is none."""
    teacher_diverged: bool
    """Whether it was trained here and its loss exceeds that of a uniform guess, log K, or rose over the epochs."""
    teacher_test: float | None
    """None, like `teacher_train` and `confidence`, if the teacher's classifier is not used."""
    baseline_test: float
    distilled_test: float
    train_images: int
    majority_train: float
    """Share of the largest class."""
    teacher_train: float | None
    baseline_train: float
    distilled_train: float
    confidence: float | None
    """Mean of the teacher's largest probability at temperature 1, on the training images."""
    temperature: float | None
    """Temperature of the soft targets; None, like the next three, if the objective has no soft targets."""
    entropy: float | None
    """Mean entropy of the soft targets on the training images, in nats."""
    entropy_share: float | None
    """`entropy` divided by its largest value, log K."""
    softer_temperature: float | None
    """The temperature at which that share would be `SOFT`."""
    late_progress: float | None
    """Share of the total drop in training loss that came in the last tenth of the epochs; None for a single epoch."""
    objective_before: float | None
    """The untrained student's loss on some batches; None for a method with its own `update`."""
    objective_after: float | None
    """The trained student's loss on the same batches."""
    parameter_ratio: float
    """Teacher parameters divided by student parameters."""
    gradients_before: dict[str, float]
    """Gradient norm of each weighted term with respect to the untrained student's parameters; may be empty."""
    gradients_after: dict[str, float]
    """The same for the trained student."""


def measure(entries: Sequence[Entry], experiment: Experiment) -> Facts:
    """Measures a run whose teacher, baseline and distilled student are all stored, without changing any of them."""
    stored = {entry.role: entry.stored for entry in entries if entry.stored}
    teacher, baseline, distilled = (stored[role] for role in ("teacher", "baseline", "distilled"))
    teacher_test, baseline_test, distilled_test = (
        learner.result["test"]["last"]["top1"] for learner in (teacher, baseline, distilled)
    )
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
        **_on_training_images(entry, stored, experiment, has_classifier=teacher_test is not None),
    )


def _on_training_images(
    entry: Entry, stored: Mapping[str, StoredLearner], experiment: Experiment, *, has_classifier: bool
) -> dict[str, Any]:
    """The facts that need networks, which are built for this alone so that the run's own stay as they are.

    `has_classifier` says whether the teacher's classifier was trained.
    """
    precision = replace(experiment.precision, compile=False, graph=False)  # not worth it for a few batches
    entry = replace(entry, spec=replace(entry.spec, averaging=None))  # the stored weights are the average's
    (learner,), teacher = prepare(
        [entry], experiment.teacher_network([entry]), experiment.shape, precision, experiment.split_of(entry).labels
    )
    assert teacher is not None
    spec, split = entry.spec, experiment.data.student_train
    limit = min(-(-IMAGES // spec.batch_size), spec.limit_batches or IMAGES)
    views = tuple(view for view in VIEWS if view in (learner.distiller.student_view, teacher.view) and view != WEAK)
    first_epoch = split.epoch(spec.seed, 0, limit * spec.batch_size, views)
    batches = list(split.batches_of(first_epoch, spec.batch_size))
    labels = torch.cat([batch.label for batch in batches])
    source = experiment.lookup_source([entry], teacher)
    if table := source.cache.find(source.key, teacher.capture.layers):
        teacher.use(table)
        teacher.prepare_epoch(split, first_epoch)
    pairs = [_read(learner, batch, teacher) for batch in batches[:GRADIENT_BATCHES]]
    # Answers to mixed images can't be held against a label.
    logits = torch.cat([(teacher.ask(b.image) if teacher.view == MIXED else teacher(b)).logits for b in batches])
    # Halfway, terms with a warm-up have their full weight.
    halfway = Progress(spec.epochs / 2, spec.epochs, step=spec.epochs * split.steps(spec.batch_size, spec.limit_batches) // 2)
    objective_before, before = objective(learner, pairs, halfway), gradient_norms(learner, pairs, halfway)
    learner.load_state_dict(stored["distilled"].tensors("last"))
    losses = [row["loss"] for row in stored["teacher"].result["history"]]
    diverged = not F.cross_entropy(logits, labels) <= GREW * math.log(experiment.shape.num_classes)  # nan included
    return {
        "train_images": len(labels),
        "majority_train": float(torch.bincount(labels).max()) / len(labels),
        "teacher_diverged": has_classifier and bool(losses) and (diverged or not losses[-1] <= losses[0]),
        "objective_before": objective_before,
        "objective_after": objective(learner, pairs, halfway),
        "teacher_train": float(correct(logits, labels)) / len(labels) if has_classifier else None,
        "baseline_train": _accuracy(stored["baseline"], batches, experiment),
        "distilled_train": _accuracy(stored["distilled"], batches, experiment),
        "confidence": float(logits.softmax(1).max(1).values.mean()) if has_classifier else None,
        **_softness(logits.cpu(), learner.distiller.temperature if learner.distiller.kd_weight else None),
        "gradients_before": before,
        "gradients_after": gradient_norms(learner, pairs, halfway),
    }


def _read(learner: Learner, batch: Batch, teacher: Teacher) -> tuple[Batch, Outputs]:
    """The batch as the learner's student reads it, and its teacher's outputs."""
    return batch.as_seen(learner.distiller.student_view), teacher(batch)


def _accuracy(stored: StoredLearner, batches: Sequence[Batch], experiment: Experiment) -> float:
    network = on_device(deployed_network(stored), experiment.precision)
    with evaluating(network), experiment.precision.autocast():
        hits = sum(float(correct(network(batch.image), batch.label)) for batch in batches)
    return hits / sum(len(batch.label) for batch in batches)


def gradient_norms(learner: Learner, pairs: Sequence[tuple[Batch, Outputs]], progress: Progress) -> dict[str, float]:
    """L2 norm of each weighted term's gradient with respect to the student's parameters, averaged over batches.

    `pairs` are batches with the teacher's outputs. Empty for a method with its own `update`.
    """
    if type(learner.distiller).update is not Distiller.update:
        return {}
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    norms: dict[str, float] = {}
    learner.train()
    for batch, teacher in pairs:
        with learner.stream:
            terms = learner.distiller.losses(batch, learner.forward(batch.image), teacher, progress)
        for name, term in terms.items():
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            square = sum(float(part.square().sum()) for part in found if part is not None)
            norms[name] = norms.get(name, 0.0) + square**0.5 / len(pairs)
    return norms


def objective(learner: Learner, pairs: Sequence[tuple[Batch, Outputs]], progress: Progress) -> float | None:
    """The learner's mean loss over batches with the teacher's outputs; None for a method with its own `update`."""
    if type(learner.distiller).update is not Distiller.update:
        return None
    learner.train()
    with learner.stream, torch.no_grad():
        values = [learner.distiller.losses(b, learner.forward(b.image), teacher, progress).values() for b, teacher in pairs]
    return sum(float(term) for terms in values for term in terms) / len(pairs)


def entropy(logits: Tensor, temperature: float) -> float:
    """Mean entropy, in nats, of the soft targets that logits [N, K] give at a temperature."""
    log_p = F.log_softmax(logits.double() / temperature, dim=1)
    return float(-(log_p.exp() * log_p).sum(1).mean())


def softening_temperature(logits: Tensor, share: float) -> float:
    """Temperature at which the mean entropy of the soft targets is `share` · log K, by bisection."""
    target = share * math.log(logits.shape[1])
    low, high = 1e-3, 1e6
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if entropy(logits, middle) < target else (low, middle)
    return high


def _softness(logits: Tensor, temperature: float | None) -> dict[str, float | None]:
    if temperature is None:
        return dict.fromkeys(("temperature", "entropy", "entropy_share", "softer_temperature"))
    nats = entropy(logits, temperature)
    share = nats / math.log(logits.shape[1])
    softer = softening_temperature(logits, SOFT)
    return {"temperature": temperature, "entropy": nats, "entropy_share": share, "softer_temperature": softer}


def late_progress(losses: Sequence[float]) -> float | None:
    """Share of the total drop in loss that came in the last tenth of the epochs; 0 without a drop, None for one epoch."""
    span = max(1, len(losses) // 10)
    if len(losses) == 1:
        return None
    late, total = losses[-1 - span] - losses[-1], losses[0] - losses[-1]
    return max(0.0, late / total) if total > 0 else 0.0
