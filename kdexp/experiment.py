"""The story of one run: the teacher, then the baseline and the distilled student, each from the store or trained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from kdexp import cost
from kdexp.config import build
from kdexp.data.dataset import ImageDataset
from kdexp.data.resident import Data, load
from kdexp.device import Precision, RandomStream, pick_device
from kdexp.distillation.base import Distiller, Probe
from kdexp.evaluation import metrics
from kdexp.features import Capture
from kdexp.journal import Journal
from kdexp.learner import Learner
from kdexp.network import Shape, build_network, load_checkpoint
from kdexp.provenance import provenance
from kdexp.settings import NAMES, Settings
from kdexp.spec import LearnerSpec
from kdexp.store import Store, Stored, file_digest
from kdexp.teacher import Teacher
from kdexp.training import train

AUXILIARY_SEED = 2**31
"""Added to the seed for modules that methods build, so that they never move a student's initial weights."""


@dataclass(frozen=True)
class Part:
    """Which nodes of the configuration make a learner of this role, and whether it sees all training images."""

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
    """One learner of a run as the table needs it: found, trained or failed."""

    role: str
    model: str
    method: str
    spec: LearnerSpec
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
        self.precision = Precision.pick(self.settings.precision, self.device)
        self.dataset: ImageDataset = build(self.config["dataset"])
        self.store = Store(self.settings.store, say=journal.warn)
        self.shape = Shape(self.dataset.num_classes, self.dataset.in_channels, self.dataset.image_size)
        if self.settings.num_threads:
            torch.set_num_threads(self.settings.num_threads)
        self.precision.set()

    @cached_property
    def data(self) -> Data:
        """The data set on the device; raises `DataUnavailable`."""
        return load(self.dataset, self.device)

    @cached_property
    def roles(self) -> list[str]:
        """The learners of this run, the teacher first."""
        distills = build(self.config["distillation"]).uses_teacher
        return (["teacher"] if self.config.get("teacher") else []) + ["baseline"] + (["distilled"] if distills else [])

    def run(self) -> list[Entry]:
        """Obtains every learner; a failed one is an entry with its reason, and what depends on it is not started."""
        entries = self.obtain([role for role in self.roles if role == "teacher"])
        if entries and entries[0].stored is None:
            return entries
        if entries:
            self._judge_teacher(entries[0])
        return entries + self.obtain([role for role in self.roles if role != "teacher"])

    def obtain(self, roles: list[str]) -> list[Entry]:
        """Entries for these roles: from the store, else trained side by side and stored."""
        entries = [self.entry(role) for role in roles]
        if self._find(entries):
            with self.store.locked({entry.spec.key: entry.role for entry in entries if entry.stored is None}):
                if lacking := self._find(entries):
                    self._train(lacking)
        for entry in entries:
            if entry.reused and entry.stored:
                self.journal.say(f"{entry.role}: reused, trained {entry.stored.result['trained_at']}; force=true trains again")
        return entries

    def entry(self, role: str) -> Entry:
        """What the configuration says of a role, before it is known whether the store has it."""
        part = PARTS[role]
        method: Distiller = build(self.config[part.method])
        chosen = self.config[part.model].get("name") or self.config["choices"][part.model]
        return Entry(role, chosen, method.describe(), self.spec(role))

    def spec(self, role: str) -> LearnerSpec:
        """Everything that decides the weights of the learner in this role."""
        part, of_teacher = PARTS[role], role == "teacher"
        model = dict(self.config[part.model])
        checkpoint = model.pop("checkpoint", None)
        method = build(self.config[part.method])
        return LearnerSpec(
            data=self._data_identity(1.0 if of_teacher else self.dataset.student_fraction),
            model=model | ({"checkpoint": file_digest(Path(checkpoint))} if checkpoint else {}),
            method=self.config[part.method],
            optimizer=self.config[part.optimizer],
            schedule=self.config[part.schedule],
            epochs=0 if of_teacher and checkpoint else self.settings.teacher_epochs if of_teacher else self.settings.epochs,
            batch_size=self.settings.batch_size,
            seed=self.settings.teacher_seed if of_teacher else self.settings.seed,
            precision=self.precision.name,
            limit_batches=self.settings.limit_batches,
            teacher=self.spec("teacher").key if method.uses_teacher else None,
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

    def _judge_teacher(self, entry: Entry) -> None:
        assert entry.stored is not None
        accuracy, chance = entry.stored.result["test"]["last"]["top1"], 1 / self.shape.num_classes
        self.journal.say(f"teacher {entry.model}: {accuracy:.2%} of the test images right")
        if accuracy < 1.5 * chance:
            self.journal.warn(f"the teacher is near chance ({chance:.2%}): what it teaches is noise")
        if entry.spec.model.get("checkpoint"):
            self.journal.warn("the teacher comes from a checkpoint: it may have been trained on this run's validation images")

    def _train(self, entries: list[Entry]) -> None:
        split = self.data.train if entries[0].role == "teacher" else self.data.student_train
        learners, teacher = self.learners(entries)
        if teacher is not None and self.settings.limit_batches is None and teacher.keep(split):
            self.journal.say(f"teacher's outputs: computed once for {len(split)} images (nothing is augmented)")
        spec = entries[0].spec
        steps = split.steps(spec.batch_size, spec.limit_batches)
        title = " and ".join(entry.role for entry in entries)
        self.journal.say(f"training {title}: {spec.epochs} epochs of {steps} batches, {len(split)} images")
        with self.journal.watching(title, spec.epochs, steps) as watch:
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
                entry.stored = self._keep(entry, learner, images=len(split), company=len(learners))

    def learners(self, entries: list[Entry]) -> tuple[list[Learner], Teacher | None]:
        """New learners for these entries, and the teacher that they share, if any of them has one."""
        parts = [self._student(entry) for entry in entries]
        if not any(distiller.uses_teacher for _, _, distiller in parts):
            return [self._learner(e, *part, layers=[], teacher=None) for e, part in zip(entries, parts, strict=True)], None
        frozen = self.teacher_network()
        layers = [distiller.layers(model, frozen) for _, model, distiller in parts]
        wanted = [name for _, of_teacher in layers for name in of_teacher]
        teacher = Teacher(frozen, wanted, self.shape.probe(self.device), self.precision, self.settings.batch_size)
        pairs = zip(entries, parts, layers, strict=True)
        return [self._learner(e, *part, layers=ours, teacher=teacher) for e, part, (ours, _) in pairs], teacher

    def teacher_network(self) -> nn.Module:
        """The teacher as the store has it."""
        stored = self.store.find(self.spec("teacher").key)
        assert stored is not None
        model = build_network(self.config["teacher"], self.shape)
        model.load_state_dict(own_weights(stored, "last", "model"))
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _student(self, entry: Entry) -> tuple[RandomStream, nn.Module, Distiller]:
        node = self.config[PARTS[entry.role].model]
        stream = RandomStream(entry.spec.seed, self.device)
        with stream:
            model = build_network(node, self.shape)
        if node.get("checkpoint"):
            load_checkpoint(model, node["checkpoint"])
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return stream, model, build(entry.spec.method)

    def _learner(
        self, entry: Entry, stream: RandomStream, model: nn.Module, distiller: Distiller, *, layers: list[str], teacher: Teacher | None
    ) -> Learner:
        capture = Capture(model, layers, self.shape.probe(self.device))
        with RandomStream(entry.spec.seed + AUXILIARY_SEED, self.device):
            distiller.setup(Probe(capture.probe, teacher.capture.probe if teacher else None))
        return Learner(
            name=entry.role,
            model=model,
            capture=capture,
            distiller=distiller.to(self.device),
            recipe=build(entry.spec.optimizer),
            schedule=build(entry.spec.schedule),
            stream=stream,
            precision=self.precision,
            deployed=distiller.deployed(model, teacher.model if teacher else None),
        )

    def _keep(self, entry: Entry, learner: Learner, *, images: int, company: int) -> Stored:
        """Evaluates a finished learner on the test images, for the first time, and stores it."""
        last = learner.state_dict()
        logits = {"last": learner.logits(self.data.test), "labels": self.data.test.labels.cpu()}
        tensors = {"last": last}
        if learner.best_epoch is not None:
            tensors["best"] = learner.best_weights
            last = {name: value.clone() for name, value in last.items()}
            tensors["last"] = last
            learner.load_state_dict(learner.best_weights)
            logits["best"] = learner.logits(self.data.test)
            learner.load_state_dict(last)
        result = {
            "model": entry.model,
            "method": entry.method,
            "spec": entry.spec.identity(),
            **costs(learner, self.shape),
            "train_images": images,
            "test": {name: metrics(values, logits["labels"]) for name, values in logits.items() if name != "labels"},
            "best_epoch": learner.best_epoch,
            "history": learner.history,
            "train_seconds": learner.seconds,
            "trained_at": time.strftime("%Y-%m-%d %H:%M"),
            "trained_with": company - 1,
            "provenance": provenance(self.device),
        }
        return self.store.save(entry.spec.key, result, {**tensors, "logits": logits}, learner.training_state())


def own_weights(stored: Stored, name: str, part: str) -> Mapping[str, torch.Tensor]:
    """The tensors of the student (`part="model"`) or of the method's modules (`"method"`) in a stored learner."""
    return {k.removeprefix(f"{part}."): v for k, v in stored.tensors(name).items() if k.startswith(f"{part}.")}


def costs(learner: Learner, shape: Shape) -> dict[str, Any]:
    """Parameters, multiply-adds and size of what is deployed, and the parameters that only training needs."""
    deployed = learner.deployed
    trained = cost.parameter_count(learner.model) + cost.parameter_count(learner.distiller)
    device = next(deployed.parameters()).device
    return {
        "parameters": cost.parameter_count(deployed),
        "training_only_parameters": trained - cost.parameter_count(deployed),
        "macs": cost.multiply_adds(deployed, shape.probe(device, images=1)),
        "size_mb": cost.size_mb(deployed),
    }


