"""What a run needs of the store: which learners are missing there, and the teachers that are not."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

from torch import nn

from kdexp.data.split import Split
from kdexp.data.views import WEAK
from kdexp.deployment.rebuild import deployed_network
from kdexp.errors import DataUnavailable
from kdexp.experiment.lookahead import network_name
from kdexp.experiment.plan import Plan
from kdexp.files import reason
from kdexp.network.headless import head_of
from kdexp.store.learners import LearnerStore
from kdexp.store.outputs import OutputStore, identity_of
from kdexp.store.spec import key_of
from kdexp.store.stored import StoredLearner
from kdexp.tasks.judgement import Judgement
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.lookup import LookupSource
from kdexp.trackers.tracking import Tracking
from kdexp.training.entry import Entry
from kdexp.training.prepare import check_start


class Experiment(Plan):
    """A plan with a store: decides which learners are missing there; `kdexp.experiment.obtain` trains them."""

    tracking: Tracking | None = None
    """The trackers of its run, while that goes on."""

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
                left_out = "; its classifier is left out" if head_of(entry.spec.model) == "none" else ""
                self.journal.say(f"{entry.role}: starts from {start}{left_out}")

    def claim(self, keys: Iterable[str], run: Path | None = None, *, learners: bool = True) -> None:
        """Keeps `kdexp-store prune` from these keys until the process or its last job ends; `run` is this job's folder.

        The keys are those of `learners`, or else of teachers' outputs.
        """
        try:
            self.session.claim(self.store.root.parent).add(keys, run, learners=learners)
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
        last = split.last_batch(spec.batch_size, spec.limit_batches)
        if spec.epochs and last < self.rank_plan.ranks:
            raise DataUnavailable(
                f"{entry.role}: the last batch has {last} of {len(split):,} images, fewer than devices={self.rank_plan.ranks} "
                "processes; another batch_size or fewer devices avoid that"
            )
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

    def groups(self, roles: Sequence[str]) -> Iterator[list[str]]:
        """Roles that train together, after the learners that they depend on. Students without a teacher join the first group.

        One with other training images is alone. What a stored teacher is made of is left out, and, after a failure, what else
        the failed teacher would need.
        """
        teachers = [role for role in roles if self.part(role).teaches]
        others = [role for role in roles if self.part(role).all_labels]
        taught_by = {role: self._taught_by(role) for role in roles if role not in (*teachers, *others)}
        first = next(filter(None, taught_by.values()), "")
        done: set[str] = set()
        for teacher in dict.fromkeys([*teachers, *(teacher or first for teacher in taught_by.values())]):
            if teacher and teacher not in done:
                yield from ([role] for role in self._needed_for(teacher))
            if students := [role for role, theirs in taught_by.items() if (theirs or first) == teacher]:
                starts = dict.fromkeys(self.part(role).start for role in students if self.part(role).start)
                yield from ([role] for start in starts for role in self._needed_for(start))
                yield students
            done |= {teacher, *students}
        yield from ([role] for role in others)

    def _taught_by(self, role: str) -> str:
        return self.part(role).teacher if self.uses_teacher(role) else ""

    def _needed_for(self, teacher: str) -> Iterator[str]:
        """The learners that a teacher, or a pretrained one, depends on unless it is stored, then this learner itself."""
        if not self.has(self.spec(teacher).key):
            for source in self.sources(teacher):
                yield from self._needed_for(source)
                if self.spec(source).key in self.session.failures:
                    break
        yield teacher

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
            if entry.stored is None:
                entry.failure = self.session.failures.get(entry.spec.key, "") or self._failed_source(entry.role)
            if entry.failure:
                self.session.failures[entry.spec.key] = entry.failure
        return [entry for entry in entries if entry.stored is None and not entry.failure]

    def _failed_source(self, role: str) -> str:
        """Which learner that this one depends on failed, and why unless the table shows it; an empty string if none did."""
        for source in self.sources(role):
            if why := self.session.failures.get(self.spec(source).key):
                return f"the {source} failed" if source in self.roles else f"{source} failed: {why}"
        return ""

    def split_of(self, entry: Entry) -> Split:
        """The training images of an entry's learner."""
        if self.part(entry.role).all_labels and self.data.all_labels is not None:
            return self.data.all_labels
        return self.data.train if self.part(entry.role).teaches else self.data.student_train

    def teacher_network(self, entries: Sequence[Entry]) -> nn.Module | None:
        """The stored teacher that these entries' specs name; None if they name none."""
        stored = self._teacher_of(entries)
        return deployed_network(stored) if stored else None

    def _teacher_of(self, entries: Sequence[Entry]) -> StoredLearner | None:
        key = next((entry.spec.teacher for entry in entries if entry.spec.teacher), None)
        return self.store.require(key) if key else None

    def lookup_source(self, entries: Sequence[Entry], teacher: Teacher) -> LookupSource:
        """Where the outputs of these entries' teacher for their training images, in the view that it reads, may be found."""
        spec, stored = entries[0].spec, self._teacher_of(entries)
        assert stored is not None
        identity = identity_of(stored, teacher.model, spec, self.device, "" if teacher.view == WEAK else teacher.view)
        if teacher.reading.unlabelled:
            identity |= {"unlabelled": self.data.unlabelled, "batch_size": teacher.batch_size}
        about = {"model": stored.result["model"], "dataset": entries[0].dataset}
        on_disk = OutputStore(self.settings.store, identity, about, self.journal.say, partial(self.claim, learners=False))
        network = network_name(stored.result["spec"]["model"], self.shape)
        later = () if teacher.reading.unlabelled else self.session.layers.get((network, teacher.view), ())
        return LookupSource(key_of(identity), self.session.outputs, None if self.settings.force else on_disk, later)

    def announce(self, entry: Entry) -> None:
        """Says of an obtained learner whether it was trained earlier, and of a teacher how good it is.

        Trackers get the epochs that they have not seen.
        """
        if entry.stored and entry.reused:
            self.journal.say(f"{entry.role}: reused, trained {entry.stored.result['trained_at']}; force=true trains again")
        if entry.stored and self.part(entry.role).teaches and not self.part(entry.role).untrained:
            self._judge(entry)
        if entry.stored and self.tracking:
            self.tracking.follow(entry.role, entry.stored.result["history"])

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
