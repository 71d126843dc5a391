"""The story of one run: the teacher, then the baseline and the distilled student, each from the store or trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from kdexp.config import build
from kdexp.data.dataset import ImageDataset
from kdexp.data.resident import Data, Split, load
from kdexp.device import Precision, pick_device
from kdexp.journal import Journal
from kdexp.loading import stored_network
from kdexp.network import Shape
from kdexp.preparation import check_start, prepare
from kdexp.results import keep
from kdexp.settings import NAMES, Settings
from kdexp.spec import LearnerSpec
from kdexp.store import Store, Stored, file_digest
from kdexp.training import train


@dataclass(frozen=True)
class Part:
    """The nodes of the configuration that make a learner."""

    model: str
    method: str
    optimizer: str
    schedule: str


PARTS = {
    "teacher": Part("teacher", "baseline", "teacher_optimizer", "teacher_schedule"),
    "baseline": Part("student", "baseline", "optimizer", "schedule"),
    "distilled": Part("student", "distillation", "optimizer", "schedule"),
}


@dataclass
class Entry:
    """One learner of a run: what was asked for, and whether it was found, trained or failed."""

    role: str
    model: str
    method: str
    spec: LearnerSpec
    checkpoint: str | None = None
    stored: Stored | None = None
    failure: str = ""
    reused: bool = False


class Experiment:
    """A composed, validated configuration and what it needs to run; data are read when they are first asked for."""

    def __init__(self, config: DictConfig, journal: Journal):
        self.config: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        self.journal = journal
        self.settings = Settings(**{name: self.config[name] for name in NAMES})
        self.device = pick_device(self.settings.device)
        self.precision = Precision.pick(self.settings.precision, self.device, self.settings.fast)
        self.dataset: ImageDataset = build(self.config["dataset"])
        self.shape = Shape(self.dataset.num_classes, self.dataset.in_channels, self.dataset.image_size)
        self.store = Store(self.settings.store, say=journal.say)
        self.precision.set()
        if self.settings.num_threads:
            torch.set_num_threads(self.settings.num_threads)

    @cached_property
    def data(self) -> Data:
        """The data set on the device; raises `DataUnavailable`."""
        return load(self.dataset, self.device, self.precision.memory_format)

    @cached_property
    def roles(self) -> list[str]:
        """The learners of this run, the teacher first."""
        distills = build(self.config["distillation"]).uses_teacher
        return (["teacher"] if self.config.get("teacher") else []) + ["baseline"] + (["distilled"] if distills else [])

    def check_starts(self) -> None:
        """What only the data and the disk tell of the learners that are to be trained; raises `DataUnavailable`."""
        for entry in self._find([self.entry(role) for role in self.roles]):
            if published := check_start(entry, self._split(entry), self.shape):
                self.journal.say(f"{entry.role}: starts from {published}")

    def run(self) -> list[Entry]:
        """Obtains every learner; a failed one is an entry with its reason, and what depends on it is not started."""
        teachers = self.obtain([role for role in self.roles if role == "teacher"])
        for teacher in teachers:
            if teacher.stored is None:
                return teachers
            self._judge(teacher)
        return teachers + self.obtain([role for role in self.roles if role != "teacher"])

    def obtain(self, roles: list[str]) -> list[Entry]:
        """Entries for these roles: from the store, else trained side by side and stored."""
        entries = [self.entry(role) for role in roles]
        if lacking := self._find(entries):
            with self.store.locked({entry.spec.key: entry.role for entry in lacking}):
                if lacking := self._find(entries):
                    self._train(lacking)
        for entry in entries:
            if entry.stored and entry.reused:
                self.journal.say(f"{entry.role}: reused, trained {entry.stored.result['trained_at']}; force=true trains again")
        return entries

    def entry(self, role: str) -> Entry:
        """What the configuration says of a role, before it is known whether the store has it."""
        part = PARTS[role]
        node = self.config[part.model]
        label = node.get("name") or self.config["choices"][part.model]
        method = build(self.config[part.method]).describe()
        return Entry(role, label, method, self.spec(role), checkpoint=node.get("checkpoint"))

    def spec(self, role: str) -> LearnerSpec:
        """Everything that decides the weights of the learner in this role."""
        part, settings, is_teacher = PARTS[role], self.settings, role == "teacher"
        model = dict(self.config[part.model])
        checkpoint = model.pop("checkpoint", None)
        epochs = settings.teacher_epochs if is_teacher else settings.epochs
        return LearnerSpec(
            data=self._data_identity(1.0 if is_teacher else self.dataset.student_fraction),
            model=model | ({"checkpoint": file_digest(Path(checkpoint))} if checkpoint else {}),
            method=self.config[part.method],
            optimizer=self.config[part.optimizer],
            schedule=self.config[part.schedule],
            epochs=0 if is_teacher and checkpoint else epochs,
            batch_size=settings.batch_size,
            seed=settings.teacher_seed if is_teacher else settings.seed,
            precision=self.precision.label,
            limit_batches=settings.limit_batches,
            teacher=self.spec("teacher").key if build(self.config[part.method]).uses_teacher else None,
        )

    def _data_identity(self, student_fraction: float) -> dict[str, Any]:
        ways = ("mean", "std", "val_fraction", "split_seed", "crop_padding", "flip")
        told = {name: getattr(self.dataset, name) for name in ways}
        return {"fingerprint": self.data.fingerprint, **vars(self.shape), **told, "student_fraction": student_fraction}

    def _find(self, entries: list[Entry]) -> list[Entry]:
        """Fills in what the store holds (nothing under force=true) and returns the entries that it lacks."""
        for entry in entries:
            if entry.stored is None and not self.settings.force:
                entry.stored = self.store.find(entry.spec.key)
                entry.reused = entry.stored is not None
        return [entry for entry in entries if entry.stored is None]

    def _judge(self, teacher: Entry) -> None:
        assert teacher.stored is not None
        accuracy, chance = teacher.stored.result["test"]["last"]["top1"], 1 / self.shape.num_classes
        self.journal.say(f"teacher {teacher.model}: {accuracy:.2%} of the test images right")
        if accuracy < 1.5 * chance:
            self.journal.warn(f"the teacher is near chance ({chance:.2%}): what it teaches is noise")
        if teacher.checkpoint:
            self.journal.warn("the teacher comes from a checkpoint: it may have been trained on this run's validation images")

    def _train(self, entries: list[Entry]) -> None:
        spec = entries[0].spec
        split = self._split(entries[0])
        learners, teacher = prepare(entries, self.teacher_network(entries), self.shape, self.precision)
        if teacher is not None and spec.limit_batches is None and teacher.keep(split):
            self.journal.say(f"teacher's outputs: computed once for {len(split)} images, since nothing is augmented")
        steps = split.steps(spec.batch_size, spec.limit_batches)
        title = " and ".join(entry.role for entry in entries)
        self.journal.say(f"training {title}: {spec.epochs} epochs of {steps} batches, {len(split)} images")
        with self.journal.watching(learners, spec.epochs, steps) as watch:
            train(
                learners,
                split,
                teacher=teacher,
                validation=self.data.validation,
                epochs=spec.epochs,
                batch_size=spec.batch_size,
                seed=spec.seed,
                limit_batches=spec.limit_batches,
                watch=watch,
            )
        for entry, learner in zip(entries, learners, strict=True):
            entry.failure = learner.failure
            if not learner.failure:
                entry.stored = keep(self.store, entry, learner, self.data.test, images=len(split), company=len(learners))

    def _split(self, entry: Entry) -> Split:
        return self.data.train if entry.role == "teacher" else self.data.student_train

    def teacher_network(self, entries: list[Entry]) -> torch.nn.Module | None:
        """The teacher that these entries' specs name, as the store has it; None if they name none."""
        keys = {entry.spec.teacher for entry in entries} - {None}
        stored = [self.store.find(key) for key in keys if key is not None]
        return stored_network(stored[0]) if stored and stored[0] else None
