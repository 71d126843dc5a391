"""The story of one run: the teacher, then the baseline and the distilled student, each from the store or trained."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import torch

from kdexp.data.split import Split
from kdexp.deployment.rebuild import deployed_network
from kdexp.device.heap import retain_freed_memory
from kdexp.errors import ImageLost, LearnerLost
from kdexp.experiment.advice import lower_rate
from kdexp.experiment.journal import lookup_words, stored_words
from kdexp.experiment.lookahead import network_name
from kdexp.experiment.plan import Plan
from kdexp.experiment.results import keep
from kdexp.files import reason
from kdexp.store.learners import LearnerStore
from kdexp.store.outputs import OutputStore, identity_of
from kdexp.store.spec import key_of
from kdexp.store.stored import StoredLearner
from kdexp.tasks.judgement import Judgement
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.lookup import LookupSource, choose_lookup, compute_all
from kdexp.training.entry import Entry
from kdexp.training.graph import steps_for
from kdexp.training.learner import Learner
from kdexp.training.loop import train
from kdexp.training.prepare import check_start, prepare


class Experiment(Plan):
    """A plan with a store: obtains its learners, from the store or by training them."""

    @cached_property
    def store(self) -> LearnerStore:
        """Where learners are kept."""
        return LearnerStore(self.settings.store, say=self.journal.say)

    def has(self, key: str) -> bool:
        """Whether that learner need not be trained."""
        return key in self.session.trained or (not self.settings.force and self.store.has(key))

    def make_ready(self) -> None:
        """Reads the data, fetches published weights and looks at the store, for what is to be trained.

        Raises `DataUnavailable`, and `Unwritable` if it could not be stored.
        """
        if self.lacking():
            self.store.require_writable()
        self.claim(self.spec(role).key for role in self.needed)
        for entry in self.lacking():  # again, for what was removed before it was claimed
            if start := self._start(entry):
                self.journal.say(f"{entry.role}: starts from {start}")

    def claim(self, keys: Iterable[str], run: Path | None = None) -> None:
        """Keeps `kdexp-store prune` from these keys, till the process or its last job ends; `run` is the folder of this job."""
        try:
            self.session.claim(self.store.root.parent).add(keys, run)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):  # where nothing is removed either
                self.journal.warn_once(
                    f"{self.store.root.parent} takes no note of what this run needs ({reason(error)}): "
                    "kdexp-store prune might remove it meanwhile"
                )

    def _start(self, entry: Entry) -> str:
        """Which published weights the training starts from, if any; looked at once for jobs that agree in what decides it."""
        spec, split, teacher = entry.spec, self.split_of(entry), self.teacher_node(entry.role)
        asked = [entry.role, entry.model, spec.model, spec.data, spec.epochs, spec.batch_size, spec.limit_batches]
        if split.leaves_one(spec.batch_size, spec.limit_batches):
            asked += [spec.method, teacher]
        key = json.dumps(asked)
        if key not in self.session.starts:
            self.session.starts[key] = str(check_start(entry, split, self.shape, teacher) or "")
        return self.session.starts[key]

    def lacking(self) -> list[Entry]:
        """What is to be trained, before it what that is taught by or made of."""
        found: dict[str, Entry] = {}
        for role in self.roles:
            self._add_lacking(role, found)
        return list(found.values())

    def _add_lacking(self, role: str, found: dict[str, Entry]) -> None:
        # A function within `lacking` that calls itself would keep the experiment and its data till Python looks for cycles.
        if role not in found and not self.has(self.spec(role).key):
            for source in self.sources(role):
                self._add_lacking(source, found)
            found[role] = self.entry(role)

    def run(self) -> list[Entry]:
        """Obtains every learner; a failed one is an entry with its reason, and what depends on it is not started."""
        entries: dict[str, Entry] = {}
        for teacher, roles in self._companies():
            if teacher not in (*entries, ""):
                entries |= {entry.role: entry for entry in self.obtain([teacher])}
            if teacher and entries[teacher].stored is None:
                if teacher == "teacher":
                    break
                entries |= {role: replace(self.entry(role), failure=f"the {teacher} failed") for role in roles}
                continue
            if teacher == "teacher":
                self._judge(entries[teacher])
            entries |= {entry.role: entry for entry in self.obtain(roles)}
        return [entries[role] for role in self.roles if role in entries]

    def _companies(self) -> Iterator[tuple[str, list[str]]]:
        """Learners that train side by side, after the role of who teaches them (the run's teacher, if there is one)."""
        students = [role for role in self.roles if role != "teacher"]
        default = "teacher" if "teacher" in self.roles else ""
        taught_by = {role: self.part(role).teacher if self._uses_teacher(role) else default for role in students}
        order = list(dict.fromkeys([default, *taught_by.values()]))
        for teacher, company in groupby(sorted(students, key=lambda role: order.index(taught_by[role])), key=taught_by.get):
            yield str(teacher), list(company)

    def obtain(self, roles: list[str]) -> list[Entry]:
        """Entries for these roles: from the store, else trained side by side and stored, after what they are made of."""
        entries = [self.entry(role) for role in roles]
        for entry in entries:
            self._obtain_sources(entry)
        self.obtain_entries(entries)
        for entry in entries:
            if entry.stored and entry.reused:
                self.journal.say(f"{entry.role}: reused, trained {entry.stored.result['trained_at']}; force=true trains again")
        return entries

    def _obtain_sources(self, entry: Entry) -> None:
        """Obtains what a teacher that is to be trained is taught by or made of; without that it has failed."""
        if not self.part(entry.role).teaches or self.has(entry.spec.key):
            return
        for role in self.sources(entry.role):
            (source,) = self.obtain([role])
            if source.stored is None:
                self.session.failures[entry.spec.key] = f"{role} failed: {source.failure}"
                return
            self._judge(source)

    def obtain_entries(self, entries: list[Entry]) -> None:
        """Fills in what the store holds of compatible entries, and trains the others side by side."""
        if lacking := self._find(entries):
            with self.store.locked({entry.spec.key: entry.name for entry in lacking}):
                if lacking := self._find(entries):
                    self._train(lacking)
                    self.session.failures |= {entry.spec.key: entry.failure for entry in lacking if entry.failure}
                    self.session.trained |= {entry.spec.key for entry in lacking if entry.stored}

    def _find(self, entries: list[Entry]) -> list[Entry]:
        """Fills in what the store holds (under force=true, what this process trained) and returns the entries that it lacks."""
        for entry in entries:
            if entry.stored is None and (not self.settings.force or entry.spec.key in self.session.trained):
                entry.stored = self.store.find(entry.spec.key)
                entry.reused = entry.stored is not None
            entry.failure = self.session.failures.get(entry.spec.key, "")
        return [entry for entry in entries if entry.stored is None and not entry.failure]

    def _judge(self, teacher: Entry) -> None:
        """Says what a teacher, or what a teacher is made of, is worth, and warns of one that teaches nothing."""
        assert teacher.stored is not None
        if teacher.stored.result["test"]["last"]["top1"] is None:
            self.journal.say(f"{teacher.role} {teacher.model}: only its features are used")
        else:
            self._say_accuracy(teacher, teacher.stored)
        if teacher.checkpoint:
            self.journal.warn(
                f"the {teacher.role} comes from a checkpoint: it may have been trained on this run's validation images"
            )

    def _say_accuracy(self, teacher: Entry, stored: StoredLearner) -> None:
        answers = stored.tensors("logits")
        judgement = Judgement.of(answers["last"], answers["labels"])
        self.journal.say(f"{teacher.role} {teacher.model}: test accuracy {100 * judgement.accuracy:.2f} %")
        if warning := judgement.warning(f"the {teacher.role}"):
            self.journal.warn(warning)

    @retain_freed_memory()
    def _train(self, entries: list[Entry]) -> None:
        spec = entries[0].spec
        split = self.split_of(entries[0])
        learners, teacher = prepare(entries, self.teacher_network(entries), self.shape, self.precision, split.labels)
        steps = split.steps(spec.batch_size, spec.limit_batches)
        *others, last = (entry.name for entry in entries)
        title = f"{', '.join(others)} and {last}" if others else last
        self.journal.say(f"training {title}: {spec.epochs} epochs of {steps} batches, {len(split)} images")
        keys = {entry.name: entry.spec.key for entry in entries}
        for learner, entry in zip(learners, entries, strict=True):
            self._assemble(learner, entry)
            self._resume(learner, entry.spec.key)
        if teacher is not None and any(len(learner.history) < spec.epochs for learner in learners):
            self._recall(teacher, entries, split)
        with self.journal.watching(learners, spec.epochs, steps) as watch:
            kind = steps_for(self.precision)
            train(
                learners,
                kind(split, teacher, spec.epochs, spec.batch_size, spec.seed, spec.limit_batches),
                validation=self.data.validation,
                watch=watch,
                keep=lambda learner: self._keep_progress(learner, keys[learner.name]),
            )
        for entry, learner in zip(entries, learners, strict=True):
            self._conclude(entry, learner, images=len(split), company=len(learners))

    def _recall(self, teacher: Teacher, entries: list[Entry], split: Split) -> None:
        """Chooses where the teacher's outputs come from; where epochs show every image as it is, computes them now."""
        source, full_epochs = self.source_of(teacher, entries), entries[0].spec.limit_batches is None
        lookup = choose_lookup(teacher, split, source)
        teacher.use(lookup.table, lookup.extra_layers)
        self.journal.say(lookup_words(lookup, len(split), full_epochs=full_epochs))
        if full_epochs and (stored := compute_all(teacher, split, source.stored)):
            self.journal.say(stored_words(stored))

    def source_of(self, teacher: Teacher, entries: list[Entry]) -> LookupSource:
        """Where the outputs of these entries' teacher for the images they see may be known from."""
        spec, taught_by = entries[0].spec, self._teacher_of(entries)
        assert taught_by is not None
        identity = identity_of(taught_by, teacher.model, spec, self.device)
        about = {"model": taught_by.result["model"], "dataset": entries[0].dataset}
        where = (self.settings.store, identity, about, self.journal.say, self.claim)
        stored = None if self.settings.force else OutputStore(*where)
        later = self.session.layers.get(network_name(taught_by.result["spec"]["model"], self.shape), ())
        return LookupSource(key_of(identity), self.session.outputs, stored, later)

    def _assemble(self, learner: Learner, entry: Entry) -> None:
        """Gives an ensemble the weights of its members."""
        networks = [deployed_network(self._needed(key)).state_dict() for key in entry.spec.members]
        for member, weights in zip(learner.model.members if networks else (), networks, strict=True):  # type: ignore[arg-type]
            member.load_state_dict(weights)

    def _resume(self, learner: Learner, key: str) -> None:
        progress = None if self.settings.force else self.store.progress(key)
        if progress is not None:
            learner.resume(progress)
            self.journal.say(f"{learner.name}: goes on after epoch {len(learner.history)}, where a run was cut off")

    def _keep_progress(self, learner: Learner, key: str) -> None:
        try:
            self.store.keep_progress(key, learner.progress())
        except OSError as error:
            self.journal.warn_once(f"{self.store.root} takes no progress ({reason(error)}): a killed run would start anew")

    def _conclude(self, entry: Entry, learner: Learner, *, images: int, company: int) -> None:
        """Stores a learner that did not fail; one that can't be stored has failed, its last epoch being kept if possible."""
        entry.failure = learner.failure
        self.journal.note(learner.traceback)
        if learner.remark:
            self.journal.say(f"{learner.name}: {learner.remark}")
        if learner.failure:
            if not learner.traceback:  # its loss is not finite
                entry.failure += f"; try {lower_rate(self.config, self.part(entry.role).optimizer)}"
            self.store.forget_progress(entry.spec.key)
            return
        try:
            entry.stored = keep(self.store, entry, learner, self.data.test, images=images, company=company)
        except ImageLost:
            raise
        except OSError as error:
            entry.failure = f"can't be stored in {self.store.root}: {reason(error)}; mend that and run the same command again"

    def split_of(self, entry: Entry) -> Split:
        """The training images that an entry's learner sees."""
        return self.data.train if self.part(entry.role).teaches else self.data.student_train

    def teacher_network(self, entries: list[Entry]) -> torch.nn.Module | None:
        """The teacher that these entries' specs name, as the store has it; None if they name none."""
        stored = self._teacher_of(entries)
        return deployed_network(stored) if stored else None

    def _teacher_of(self, entries: list[Entry]) -> StoredLearner | None:
        key = next((entry.spec.teacher for entry in entries if entry.spec.teacher), None)
        return self._needed(key) if key else None

    def _needed(self, key: str) -> StoredLearner:
        """A learner that the store had; raises `LearnerLost`."""
        found = self.store.find(key)
        if found is None:
            raise LearnerLost(f"{self.store.root / key} was removed or damaged while this run needed it")
        return found
