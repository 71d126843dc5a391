"""Learners that train together: prepared, trained in one loop, evaluated and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from kdexp.data.load import Data
from kdexp.data.shape import Shape
from kdexp.data.split import Split
from kdexp.deployment.rebuild import deployed_network
from kdexp.device.heap import retain_freed_memory
from kdexp.device.precision import Precision
from kdexp.errors import ImageLost, LearnerLost
from kdexp.experiment.advice import lower_rate
from kdexp.experiment.journal import Journal, lookup_words, stored_words
from kdexp.experiment.results import store_result
from kdexp.files import reason
from kdexp.store.learners import LearnerStore
from kdexp.store.stored import StoredLearner
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.lookup import LookupSource, choose_lookup, compute_all
from kdexp.training.entry import Entry
from kdexp.training.learner import Learner
from kdexp.training.loop import train
from kdexp.training.prepare import prepare
from kdexp.training.recorded_steps import steps_for


@dataclass(frozen=True)
class Shared:
    """What learners that train together share."""

    split: Split
    """The training images."""
    data: Data
    teacher: nn.Module | None
    lookup_source: LookupSource | None
    """For the teacher's outputs, None without a teacher."""
    store: LearnerStore
    journal: Journal
    shape: Shape
    precision: Precision
    resume: bool
    """Whether interrupted trainings go on where they were, not from the beginning."""


def train_group(entries: Sequence[Entry], shared: Shared) -> None:
    """Trains these entries together and stores them; a learner that fails leaves its reason in its entry."""
    spec, split, journal = entries[0].spec, shared.split, shared.journal
    with retain_freed_memory():
        learners, teacher = prepare(entries, shared.teacher, shared.shape, shared.precision, split.labels)
        steps = steps_for(shared.precision)(split, teacher, spec.epochs, spec.batch_size, spec.seed, spec.limit_batches)
        journal.say(f"training {_names(entries)}: {spec.epochs} epochs of {steps.count} batches, {len(split)} images")
        for learner, entry in zip(learners, entries, strict=True):
            _load_members(learner, entry, shared.store)
            if shared.resume:
                _resume(learner, entry, shared)
        if teacher is not None and any(len(learner.history) < spec.epochs for learner in learners):
            _look_up(teacher, shared, spec.epochs, full_epochs=spec.limit_batches is None)
        keys = {entry.name: entry.spec.key for entry in entries}
        with journal.watching(learners, spec.epochs, steps.count) as watch:
            train(
                learners,
                steps,
                validation=shared.data.validation,
                watch=watch,
                keep=lambda learner: _keep_progress(learner, keys[learner.name], shared),
            )
        for entry, learner in zip(entries, learners, strict=True):
            _conclude(entry, learner, shared, together=len(learners))


def _names(entries: Sequence[Entry]) -> str:
    *others, last = (entry.name for entry in entries)
    return f"{', '.join(others)} and {last}" if others else last


def stored_learner(store: LearnerStore, key: str) -> StoredLearner:
    """A learner that the store had; raises `LearnerLost`."""
    found = store.find(key)
    if found is None:
        raise LearnerLost(f"{store.root / key} was removed or damaged while this run needed it")
    return found


def _load_members(learner: Learner, entry: Entry, store: LearnerStore) -> None:
    """Loads the weights of an ensemble's members; does nothing for other networks."""
    for position, key in enumerate(entry.spec.members):
        member = learner.model.get_submodule(f"members.{position}")
        member.load_state_dict(deployed_network(stored_learner(store, key)).state_dict())


def _resume(learner: Learner, entry: Entry, shared: Shared) -> None:
    progress = shared.store.progress(entry.spec.key)
    if progress is not None:
        learner.resume(progress)
        shared.journal.say(f"{learner.name}: goes on after epoch {len(learner.history)}, where a run was interrupted")


def _look_up(teacher: Teacher, shared: Shared, epochs: int, *, full_epochs: bool) -> None:
    """Chooses where the teacher's outputs come from; if all are needed, computes the missing ones."""
    assert shared.lookup_source is not None
    lookup = choose_lookup(teacher, shared.split, shared.lookup_source, epochs)
    teacher.use(lookup.table, lookup.extra_layers)
    shared.journal.say(lookup_words(lookup, len(shared.split), full_epochs=full_epochs))
    if full_epochs and (stored := compute_all(teacher, shared.split, shared.lookup_source.stored)):
        shared.journal.say(stored_words(stored))


def _keep_progress(learner: Learner, key: str, shared: Shared) -> None:
    try:
        shared.store.keep_progress(key, learner.progress())
    except OSError as error:
        shared.journal.warn_once(
            f"{shared.store.root}: progress can't be saved ({reason(error)}); a killed run would start from the beginning"
        )


def _conclude(entry: Entry, learner: Learner, shared: Shared, *, together: int) -> None:
    """Stores a learner, unless it failed; if it can't be stored, it has failed, and its progress is kept where possible."""
    entry.failure = learner.failure
    shared.journal.note(learner.traceback)
    if learner.remark:
        shared.journal.say(f"{learner.name}: {learner.remark}")
    if learner.failure:
        if not learner.traceback:  # its loss is not finite
            entry.failure += f"; try {lower_rate({entry.optimizer: entry.spec.optimizer}, entry.optimizer)}"
        shared.store.forget_progress(entry.spec.key)
        return
    try:
        entry.stored = store_result(shared.store, entry, learner, shared.data.test, images=len(shared.split), together=together)
    except ImageLost:
        raise
    except OSError as error:
        why = reason(error)
        entry.failure = f"can't be stored in {shared.store.root}: {why}; fix that and run the same command again"
