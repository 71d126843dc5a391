"""Obtains learners: from the store, or trained together in one loop, evaluated and stored."""

from __future__ import annotations

from collections.abc import Sequence

from kdexp.data.split import Split
from kdexp.deployment.rebuild import deployed_network
from kdexp.device import ranks
from kdexp.device.heap import retain_freed_memory
from kdexp.errors import ImageLost
from kdexp.experiment.advice import lower_rate
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal, lookup_words, stored_words, training_words
from kdexp.experiment.progress import saving_progress
from kdexp.experiment.quantised import quantise
from kdexp.experiment.results import store_result
from kdexp.files import reason
from kdexp.store.learners import LearnerStore
from kdexp.store.spec import LearnerSpec
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.lookup import LookupSource, choose_lookup, compute_all
from kdexp.training.entry import Entry
from kdexp.training.learner import Learner
from kdexp.training.loop import Steps, Watches, train
from kdexp.training.prepare import prepare
from kdexp.training.recorded_steps import steps_for


def obtain(experiment: Experiment, roles: Sequence[str] | None = None) -> list[Entry]:
    """Entries for these roles (None: all of the run), from the store or trained, after the learners that they depend on.

    A learner that fails is an entry with the reason. If the run's teacher fails, nothing is started after it.
    """
    wanted = experiment.roles if roles is None else roles
    found: dict[str, Entry] = {}
    for group in experiment.groups(wanted):
        found |= {role: experiment.entry(role) for role in group}
        with experiment.lock_missing([found[role] for role in group]) as missing:
            if missing:
                train_group(missing, experiment)
        for role in group:
            experiment.announce(found[role])
        if "teacher" in group and found["teacher"].failure:
            break
    return [found[role] for role in wanted if role in found]


def train_group(entries: Sequence[Entry], experiment: Experiment) -> None:
    """Trains these entries together and stores them; a learner that fails leaves its reason in its entry.

    The experiment is that of the first entry; all agree with it in data, teacher, seed and precision.
    """
    spec = entries[0].spec
    experiment.prepare_torch()
    if spec.quantised and spec.teacher:
        source = experiment.store.require(spec.teacher)
        for entry in entries:
            quantise(entry, source, deployed_network(source), experiment.data, experiment.store, experiment.journal)
        return
    experiment.session.others.start(experiment.rank_plan, experiment.device)
    keys, leads = {entry.name: entry.spec.key for entry in entries}, ranks.leads()
    with retain_freed_memory():
        with ranks.together(experiment.rank_plan.ranks):
            experiment.session.others.send(experiment.rank_plan, (experiment.config, list(entries)))
            learners, steps = _prepared(entries, experiment)
            with (
                experiment.journal.watching(learners, spec.epochs, steps.count) as watch,
                saving_progress(experiment.store, keys, experiment.journal) as saver,
            ):
                validation = experiment.data.validation if leads else None
                watches = Watches(watch, experiment.tracking)
                train(learners, steps, validation=validation, watch=watches, keep=saver.keep if leads else _keep_nothing)
        for entry, learner in zip(entries, learners, strict=True) if leads else ():
            _conclude(entry, learner, experiment, together=len(learners))


def _prepared(entries: Sequence[Entry], experiment: Experiment) -> tuple[list[Learner], Steps]:
    """The learners of these entries, where an interrupted training ended, and the steps of their training."""
    spec, split, precision = entries[0].spec, experiment.split_of(entries[0]), experiment.precision
    network, known = experiment.teacher_network(entries), (split.labels, split.unlabelled_images)
    learners, teacher = prepare(entries, network, experiment.shape, precision, *known)
    steps = steps_for(precision)(split, teacher, spec.epochs, spec.batch_size, spec.seed, spec.limit_batches)
    experiment.journal.say(training_words(_names(entries), spec, steps.count, len(split), repeats=split.repeats))
    for learner, entry in zip(learners, entries, strict=True):
        _load_members(learner, entry, experiment.store)
        if entry.spec.start:
            learner.start_from(deployed_network(experiment.store.require(entry.spec.start)).state_dict())
        _resume(learner, entry, experiment)
    if any(len(learner.history) < spec.epochs for learner in learners):
        for each in steps.teachers:
            _look_up(each, split, experiment.lookup_source(entries, each), experiment.journal, spec)
    return learners, steps


def _keep_nothing(learner: Learner) -> None:
    """Other ranks than the first save no progress."""


def _names(entries: Sequence[Entry]) -> str:
    *others, last = (entry.name for entry in entries)
    return f"{', '.join(others)} and {last}" if others else last


def _load_members(learner: Learner, entry: Entry, store: LearnerStore) -> None:
    """Loads the weights of an ensemble's members; does nothing for other networks."""
    for position, key in enumerate(entry.spec.members):
        member = learner.model.get_submodule(f"members.{position}")
        member.load_state_dict(deployed_network(store.require(key)).state_dict())


def _resume(learner: Learner, entry: Entry, experiment: Experiment) -> None:
    """Goes on where an interrupted training ended; with force=true, from the beginning."""
    progress = None if experiment.settings.force else experiment.store.progress(entry.spec.key)
    if progress is not None:
        learner.resume(progress)
        experiment.journal.say(f"{learner.name}: resuming after epoch {len(learner.history):,}")


def _look_up(teacher: Teacher, split: Split, source: LookupSource, journal: Journal, spec: LearnerSpec) -> None:
    """Chooses where the teacher's outputs come from; if all are needed, computes the missing ones."""
    full_epochs = spec.limit_batches is None
    images = teacher.images_of(split)
    lookup = choose_lookup(teacher, images, source, spec.epochs)
    teacher.use(lookup.table, lookup.extra_layers)
    kind = "unlabelled image" if teacher.reading.unlabelled else "image"
    journal.say(lookup_words(lookup, len(images), kind, full_epochs=full_epochs))
    if full_epochs and (stored := compute_all(teacher, split, source.stored if ranks.leads() else None)):
        journal.say(stored_words(stored))


def _conclude(entry: Entry, learner: Learner, experiment: Experiment, *, together: int) -> None:
    """Stores a learner, unless it failed; if it can't be stored, it has failed, and its progress is kept where possible."""
    entry.failure = learner.failure
    experiment.journal.note(learner.traceback)
    if learner.remark:
        experiment.journal.say(f"{learner.name}: {learner.remark}")
    if learner.failure:
        if not learner.traceback:  # its loss is not finite
            entry.failure += f"; try {lower_rate({entry.optimizer: entry.spec.optimizer}, entry.optimizer)}"
        experiment.store.forget_progress(entry.spec.key)
        return
    try:
        entry.stored = store_result(
            experiment.store,
            entry,
            learner,
            experiment.split_of(entry),
            experiment.data,
            together=together,
        )
    except ImageLost:
        raise
    except OSError as error:
        why = reason(error)
        entry.failure = f"can't be stored in {experiment.store.root}: {why}; fix that and run the same command again"
