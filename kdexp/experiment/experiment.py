"""One run: the teacher, then the baseline and the distilled student, each from the store or trained."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import nn

from kdexp.data.split import Split
from kdexp.deployment.rebuild import deployed_network
from kdexp.experiment.lookahead import network_name
from kdexp.experiment.plan import Plan
from kdexp.experiment.training_group import Shared, stored_learner, train_group
from kdexp.files import reason
from kdexp.store.learners import LearnerStore
from kdexp.store.outputs import OutputStore, identity_of
from kdexp.store.spec import key_of
from kdexp.store.stored import StoredLearner
from kdexp.tasks.judgement import Judgement
from kdexp.teacher.lookup import LookupSource
from kdexp.training.entry import Entry
from kdexp.training.prepare import check_start


class Experiment(Plan):
    """A plan with a store: decides which learners are missing there, and has them trained."""

    @cached_property
    def store(self) -> LearnerStore:
        """The store of trained learners."""
        return LearnerStore(self.settings.store, say=self.journal.say)

    def has(self, key: str) -> bool:
        """Whether that learner need not be trained."""
        return key in self.session.trained or (not self.settings.force and self.store.has(key))

    def make_ready(self) -> None:
        """Reads the data, fetches published weights and checks the store, for the learners that are missing.

        Raises `DataUnavailable`, and `Unwritable` if learners could not be stored.
        """
        if self.missing():
            self.store.require_writable()
        self.claim(self.spec(role).key for role in self.needed)
        for entry in self.missing():  # once more: some may have been removed before they were claimed
            if start := self._start(entry):
                self.journal.say(f"{entry.role}: starts from {start}")

    def claim(self, keys: Iterable[str], run: Path | None = None) -> None:
        """Keeps `kdexp-store prune` from these keys until the process or its last job ends; `run` is this job's folder."""
        try:
            self.session.claim(self.store.root.parent).add(keys, run)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):  # nothing can be removed there either
                self.journal.warn_once(
                    f"{self.store.root.parent}: can't register this run ({reason(error)}); "
                    "kdexp-store prune could remove learners that it needs"
                )

    def _start(self, entry: Entry) -> str:
        """The published weights that the training starts from, if any; checked once for jobs that agree in them."""
        spec, split, teacher = entry.spec, self.split_of(entry), self.teacher_node(entry.role)
        parts = [entry.role, entry.model, spec.model, spec.data, spec.epochs, spec.batch_size, spec.limit_batches]
        if split.leaves_one(spec.batch_size, spec.limit_batches):
            parts += [spec.method, teacher]
        key = json.dumps(parts)
        if key not in self.session.starts:
            self.session.starts[key] = str(check_start(entry, split, self.shape, teacher) or "")
        return self.session.starts[key]

    def missing(self) -> list[Entry]:
        """Learners missing from the store, dependencies first."""
        found: dict[str, Entry] = {}
        for role in self.roles:
            self._add_missing(role, found)
        return list(found.values())

    def _add_missing(self, role: str, found: dict[str, Entry]) -> None:
        # Not a function inside `missing`: one that calls itself would keep the data alive until garbage collection.
        if role not in found and not self.has(self.spec(role).key):
            for source in self.sources(role):
                self._add_missing(source, found)
            found[role] = self.entry(role)

    def run(self) -> list[Entry]:
        """Obtains every learner. A failed one is an entry with its reason, and learners that depend on it are not started."""
        entries: dict[str, Entry] = {}
        for teacher, roles in self._groups().items():
            if teacher and teacher not in entries:
                (entries[teacher],) = self.obtain([teacher])
            if teacher and entries[teacher].stored is None:
                if teacher == "teacher":
                    break
                entries |= {role: replace(self.entry(role), failure=f"the {teacher} failed") for role in roles}
                continue
            if teacher == "teacher":
                self._judge(entries[teacher])
            entries |= {entry.role: entry for entry in self.obtain(roles)}
        return [entries[role] for role in self.roles if role in entries]

    def _groups(self) -> dict[str, list[str]]:
        """Students that train together, by their teacher's role. Those without a teacher join the first group."""
        first = "teacher" if "teacher" in self.roles else ""
        groups: dict[str, list[str]] = {first: []}
        for role in self.roles:
            if role != "teacher":
                teacher = self.part(role).teacher if self._uses_teacher(role) else first
                groups.setdefault(teacher, []).append(role)
        return groups

    def obtain(self, roles: list[str]) -> list[Entry]:
        """Entries for these roles: from the store, otherwise trained together after the learners that they depend on."""
        entries = [self.entry(role) for role in roles]
        for entry in entries:
            self._obtain_sources(entry)
        with self.lock_missing(entries) as missing:
            if missing:
                train_group(missing, self.shared_by(missing))
        for entry in entries:
            if entry.stored and entry.reused:
                self.journal.say(f"{entry.role}: reused, trained {entry.stored.result['trained_at']}; force=true trains again")
        return entries

    def _obtain_sources(self, entry: Entry) -> None:
        """Obtains the learners that a missing teacher is taught by or made of; if one fails, the teacher has failed."""
        if not self.part(entry.role).teaches or self.has(entry.spec.key):
            return
        for role in self.sources(entry.role):
            (source,) = self.obtain([role])
            if source.stored is None:
                self.session.failures[entry.spec.key] = f"{role} failed: {source.failure}"
                return
            self._judge(source)

    @contextmanager
    def lock_missing(self, entries: Sequence[Entry]) -> Iterator[list[Entry]]:
        """Fills in stored learners. Inside, the missing ones are locked, so that no other process trains them too."""
        missing = self._fill_in(entries)
        if not missing:
            yield []
            return
        with self.store.locked({entry.spec.key: entry.name for entry in missing}):
            missing = self._fill_in(missing)
            yield missing
        self.session.failures |= {entry.spec.key: entry.failure for entry in missing if entry.failure}
        self.session.trained |= {entry.spec.key for entry in missing if entry.stored}

    def _fill_in(self, entries: Sequence[Entry]) -> list[Entry]:
        """Fills in stored learners (with force=true only those of this process) and earlier failures; returns the others."""
        for entry in entries:
            if entry.stored is None and (not self.settings.force or entry.spec.key in self.session.trained):
                entry.stored = self.store.find(entry.spec.key)
                entry.reused = entry.stored is not None
            entry.failure = self.session.failures.get(entry.spec.key, "")
        return [entry for entry in entries if entry.stored is None and not entry.failure]

    def shared_by(self, entries: Sequence[Entry]) -> Shared:
        """What entries share that train together."""
        teacher = self.teacher_network(entries)
        return Shared(
            split=self.split_of(entries[0]),
            data=self.data,
            teacher=teacher,
            lookup_source=self.lookup_source(entries, teacher) if teacher else None,
            store=self.store,
            journal=self.journal,
            shape=self.shape,
            precision=self.precision,
            resume=not self.settings.force,
        )

    def split_of(self, entry: Entry) -> Split:
        """The training images of an entry's learner."""
        return self.data.train if self.part(entry.role).teaches else self.data.student_train

    def teacher_network(self, entries: Sequence[Entry]) -> nn.Module | None:
        """The stored teacher that these entries' specs name; None if they name none."""
        stored = self._teacher_of(entries)
        return deployed_network(stored) if stored else None

    def _teacher_of(self, entries: Sequence[Entry]) -> StoredLearner | None:
        key = next((entry.spec.teacher for entry in entries if entry.spec.teacher), None)
        return stored_learner(self.store, key) if key else None

    def lookup_source(self, entries: Sequence[Entry], teacher: nn.Module) -> LookupSource:
        """Where the outputs of these entries' teacher for their training images may be found."""
        spec, stored = entries[0].spec, self._teacher_of(entries)
        assert stored is not None
        identity = identity_of(stored, teacher, spec, self.device)
        about = {"model": stored.result["model"], "dataset": entries[0].dataset}
        on_disk = OutputStore(self.settings.store, identity, about, self.journal.say, self.claim)
        later = self.session.layers.get(network_name(stored.result["spec"]["model"], self.shape), ())
        return LookupSource(key_of(identity), self.session.outputs, None if self.settings.force else on_disk, later)

    def _judge(self, teacher: Entry) -> None:
        """Notes the accuracy of a teacher, or of one that a teacher is made of, and warns if it has nothing to teach."""
        assert teacher.stored is not None
        if teacher.stored.result["test"]["last"]["top1"] is None:
            self.journal.say(f"{teacher.role} {teacher.model}: only its features are used")
        else:
            answers = teacher.stored.tensors("logits")
            judgement = Judgement.of(answers["last"], answers["labels"])
            self.journal.say(f"{teacher.role} {teacher.model}: test accuracy {100 * judgement.accuracy:.2f} %")
            if warning := judgement.warning(f"the {teacher.role}"):
                self.journal.warn(warning)
        if teacher.checkpoint:
            self.journal.warn(
                f"the {teacher.role} comes from a checkpoint: it may have been trained on this run's validation images"
            )
