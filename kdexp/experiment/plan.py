"""What a configuration requests: which learners, on which data, and everything that decides their weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from kdexp.configuration.compose import as_plain
from kdexp.configuration.nodes import build, nodes_within, target
from kdexp.configuration.roles import RoleSpec, node_at, option, role_spec, seed_offset, sources_of
from kdexp.configuration.settings import NAMES, Settings
from kdexp.data.dataset import OF_LABELS, ImageDataset
from kdexp.data.load import Data, load
from kdexp.data.placement import Placement
from kdexp.data.shape import Shape
from kdexp.data.unread import UnreadData, look_up
from kdexp.data.views import STRONG, STRONG2
from kdexp.deployment.quantisation import QUANTISATION
from kdexp.device import threads
from kdexp.device.precision import Precision, pick_device
from kdexp.device.rank_plan import plan_ranks
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.files import at_home, file_digest
from kdexp.network.build import device_of, sketch_network, taken, without_start
from kdexp.network.checkpoint.classes import classes_of, rows_for
from kdexp.network.cost import multiply_adds
from kdexp.network.headless import head_of
from kdexp.pretraining.settings import is_chosen, method_of
from kdexp.store.spec import LearnerSpec
from kdexp.store.stored import SUMMARIES
from kdexp.training.entry import Entry

VIEW_KNOBS = ("student_view", "teacher_view")


def _decisive(method: dict[str, Any]) -> dict[str, Any]:
    """A method's node, without the starting weights of networks inside it, since these are always newly initialised.

    Also without what is the method's own choice of images: learners of before there was a choice keep their keys.
    """
    made = target(method)
    own = dict(zip(VIEW_KNOBS, made.own_views, strict=True))
    nodes, own = nodes_within(method), own if made.unlabelled else own | {"unlabelled_ratio": 0}
    named = {name: value for name, value in method.items() if name not in own or value not in (None, own[name])}
    return {name: without_start(value) if name in nodes else value for name, value in named.items()}


class Plan:
    """A composed, validated configuration: its data, its learners, and what decides their weights."""

    def __init__(self, config: Mapping[str, Any], journal: Journal, session: Session | None = None, job: str = ""):
        self.config = as_plain(config)
        self.journal = journal
        self.session = session or Session()
        self.job = job
        self._specs: dict[str, LearnerSpec] = {}
        self.settings = Settings(**{name: self.config[name] for name in NAMES})
        self.device = pick_device(self.settings.device)
        self.rank_plan = plan_ranks(self.settings.devices, self.device)
        options = {name: getattr(self.settings, name) for name in ("fast", "compile", "graph")}
        self.precision = Precision.pick(self.settings.precision, self.device, ranks=self.rank_plan.ranks, **options)
        self.dataset: ImageDataset = build(self.config["dataset"])
        self.shape = Shape(self.dataset.num_classes, self.dataset.in_channels, self.dataset.image_size)
        self.prepare_torch()

    def prepare_torch(self) -> None:
        """Sets PyTorch's global switches as this run needs them; other jobs of the process may have set them otherwise."""
        self.precision.set()
        torch.set_num_threads(self.threads)

    @cached_property
    def threads(self) -> int:
        """CPU threads: as configured, or else by the run's largest network, so that all its learners use the same number."""
        if self.settings.num_threads or self.device.type != "cpu" or threads.MOST == 1:
            return self.settings.num_threads or threads.MOST
        most = max(1, threads.MOST // self.rank_plan.ranks)
        nodes = {json.dumps(node): node for role in self.needed if (node := node_at(self.config, self.part(role).model))}
        products = max(self._multiply_adds(node) for node in nodes.values())
        return min(most, threads.pick_threads(self.settings.batch_size // self.rank_plan.ranks * products))

    @property
    def where(self) -> str:
        """Precision and device in words, such as `fp32 on cpu, 1 thread`."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device.type == "cpu" else ""
        return f"{self.precision.label} on {self.device.type}{threads}"

    def _multiply_adds(self, node: Mapping[str, Any]) -> int:
        """The multiply-adds of a network for one image."""
        network = sketch_network(node, self.shape)
        return multiply_adds(network, self.shape.probe(device_of(network), images=1))

    @cached_property
    def data(self) -> Data:
        """The data set on the device; raises `DataUnavailable`."""
        placement = Placement(self.settings.memory, self.settings.workers, self._summaries)
        key = (json.dumps(self.config["dataset"]), self.device, self.precision.memory_format, placement)
        data: Data = self.session.data.get(
            key, lambda: load(self.dataset, self.device, self.precision.memory_format, placement)
        )
        self._describe(data)
        return data

    @cached_property
    def unread(self) -> UnreadData:
        """What earlier runs noted about the data set, for a dry run, which reads no images."""
        key = json.dumps(self.config["dataset"])
        if key not in self.session.unread:
            self.session.unread[key] = look_up(self.dataset, self._summaries)
        found = self.session.unread[key]
        self._describe(found)
        return replace(found, fingerprint=key, unlabelled=key) if found.gap else found

    @property
    def known(self) -> Data | UnreadData:
        """The data set as far as this command reads it."""
        return self.unread if self.settings.dry_run else self.data

    @property
    def _summaries(self) -> Path:
        return at_home(self.settings.store) / SUMMARIES

    def _describe(self, data: Data | UnreadData) -> None:
        """Prints what users may not expect of the data."""
        for note in data.notes:
            self.journal.remark(note)
        for sentence in data.warnings:
            self.journal.warn(sentence)
        if data.location:
            self.journal.say(data.location)
        if data.mean is not None and data.std is not None and (self.dataset.mean is None or self.dataset.std is None):
            mean, std = (",".join(map(str, values)) for values in (data.mean, data.std))
            self.journal.say(
                f"normalisation measured on {data.measured:,} images: 'dataset.mean=[{mean}]' 'dataset.std=[{std}]'"
            )

    @cached_property
    def roles(self) -> list[str]:
        """The learners of this run, the teacher first."""
        distills = self.config["distillation"]["_target_"] != self.config["baseline"]["_target_"]
        first = (["teacher"] if self.config.get("teacher") else []) + ["baseline"] + (["distilled"] if distills else [])
        return first + (["pretrained"] if is_chosen(self.config) else []) + list(self.settings.controls)

    @property
    def needed(self) -> list[str]:
        """The roles of all learners, including those that teachers are taught by or made of; dependencies first."""
        found: dict[str, None] = {}
        for role in self.roles:
            self._add_needed(role, found)
        return list(found)

    def _add_needed(self, role: str, found: dict[str, None]) -> None:
        # Not a function inside `needed`: one that calls itself would keep the data alive until garbage collection.
        for source in self.sources(role):
            self._add_needed(source, found)
        found[role] = None

    def sources(self, role: str) -> list[str]:
        """The roles of the learners that this one is directly taught by or made of."""
        part = self.part(role)
        is_student = self._uses_teacher(role) and not part.teaches
        return [part.teacher] if is_student else sources_of(role, self.config)

    def teacher_node(self, role: str) -> dict[str, Any] | None:
        """The node of this role's teacher network, None without a teacher."""
        return self.spec(self.part(role).teacher).model if self._uses_teacher(role) else None

    def part(self, role: str) -> RoleSpec:
        """The configuration nodes that this role is built from."""
        return role_spec(role, self.config)

    def method_node(self, part: RoleSpec) -> dict[str, Any]:
        """The node of the method by which a learner is trained."""
        node = node_at(self.config, part.method)
        if part.pretrains:
            return method_of(node)
        return {**node, "student_view": part.student_view} if part.student_view else node

    def entry(self, role: str) -> Entry:
        """The learner in this role as it is configured, before the store is searched for it."""
        part = self.part(role)
        checkpoint = None if part.from_scratch else node_at(self.config, part.model).get("checkpoint")
        dataset = self.config["choices"]["dataset"]
        model, classes = option(self.config, part.model), self.dataset.classes
        return Entry(
            role,
            model,
            self._method(role),
            self.spec(role),
            dataset,
            checkpoint,
            classes,
            job=self.job,
            optimizer=part.optimizer,
        )

    def _method(self, role: str) -> str:
        """How the learner in this role is trained or built, for the table."""
        part = self.part(role)
        sources = [option(self.config, self.part(source).model) for source in self.sources(role)] if part.teaches else []
        if "members" in node_at(self.config, part.model):
            counts = Counter(sources).items()
            return "mean of " + ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts)
        head = head_of(node_at(self.config, part.model))
        if head == "none":
            return "features alone"
        described = build(self.method_node(part)).describe() + (", linear probe" if head else "")
        if weights := self.spec(role).class_weights:
            described += ", balanced" if weights == "balanced" else ", weighted"
        if part.start:
            probed = ", linear probe" if self.spec(role).model.get("frozen_backbone") else ""
            return f"{described}{probed}, from {build(self.method_node(self.part(part.start))).label}"
        return f"{described} from {sources[0]}" if sources else described

    def spec(self, role: str) -> LearnerSpec:
        """Everything that decides the weights of the learner in this role."""
        if role not in self._specs:
            self._specs[role] = self._spec(role)
        return self._specs[role]

    def _spec(self, role: str) -> LearnerSpec:
        part, settings = self.part(role), self.settings
        model = dict(node_at(self.config, part.model))
        members = [source for source in self.sources(role) if ".members." in source]
        checkpoint = None if part.from_scratch else model.get("checkpoint")
        of_checkpoint, head = taken(model), head_of(model)
        model = without_start(model)
        if part.from_scratch and "weights" in model:
            model["weights"] = None
        if checkpoint:
            model |= {"checkpoint": file_digest(Path(checkpoint)), **of_checkpoint}
            if (rows := rows_for(self.dataset.classes, classes_of(Path(checkpoint)))) is not None:
                model["checkpoint_rows"] = rows
        if head == "none" or part.pretrains:
            model["head"] = "none"
        probed = head == "probe" and not part.untrained
        probed |= bool(part.start) and self.config[part.start]["frozen_backbone"]
        if part.frozen_backbone or probed or node_at(self.config, part.model).get("frozen_backbone"):
            model["frozen_backbone"] = True
        epochs, batch_size = self._length(part)
        as_it_is = head == "none" or (part.teaches and checkpoint and not probed)
        if part.untrained or part.quantised or members or as_it_is:
            epochs = 0
        return LearnerSpec(
            data=self._data_identity(part),
            model=model,
            method=_decisive(self.method_node(part)),
            optimizer=node_at(self.config, part.optimizer),
            schedule=node_at(self.config, part.schedule),
            epochs=epochs,
            batch_size=batch_size,
            seed=settings.teacher_seed + seed_offset(part.model) if part.teaches else settings.seed,
            precision="int8" if part.quantised else self.precision.label,
            limit_batches=settings.limit_batches,
            class_weights=self._class_weights(part, epochs),
            averaging=self._averaging(part, epochs),
            teacher=self.spec(part.teacher).key if self._uses_teacher(role) else None,
            members=[self.spec(member).key for member in members],
            quantised=QUANTISATION if part.quantised else None,
            strong_view=self._strong_view(part, epochs),
            unlabelled=self.known.unlabelled if self._reads_folder(part, epochs) else None,
            start=self.spec(part.start).key if part.start else None,
        )

    def _reads_folder(self, part: RoleSpec, epochs: int) -> bool:
        """Whether a learner reads the images of `dataset.unlabelled_root` in its training."""
        return bool(epochs and self.dataset.unlabelled and build(self.method_node(part)).unlabelled)

    def _length(self, part: RoleSpec) -> tuple[int, int]:
        """Epochs and batch size of a training."""
        if part.pretrains:
            return self.config["pretraining"]["epochs"], self.config["pretraining"]["batch_size"]
        settings = self.settings
        return settings.teacher_epochs if part.teaches else settings.epochs, settings.batch_size

    def _strong_view(self, part: RoleSpec, epochs: int) -> dict[str, Any] | None:
        """The node of RandAugment, for learners that read strong views in their training."""
        read = build(self.method_node(part)).views_read
        return self.dataset.strong_view if epochs and {STRONG, STRONG2} & read else None

    def _class_weights(self, part: RoleSpec, epochs: int) -> Literal["balanced"] | list[float] | None:
        """The setting, unless it changes nothing: the learner is not trained, or not on labels."""
        if self.settings.class_weights is None or not epochs or not build(self.method_node(part)).ce_weight:
            return None
        return self.settings.class_weights

    def _averaging(self, part: RoleSpec, epochs: int) -> dict[str, Any] | None:
        """The node of the moving average of a student's weights; None for teachers, pretraining, and what is not trained."""
        node = self.config["averaging"]
        return None if part.teaches or part.pretrains or not epochs or not build(node).describe() else node

    def _uses_teacher(self, role: str) -> bool:
        part = self.part(role)
        return part.quantised or bool(target(node_at(self.config, part.method)).uses_teacher)

    def _data_identity(self, part: RoleSpec) -> dict[str, Any]:
        measured = {name: getattr(self.known, name) for name in ("fingerprint", "mean", "std")}
        named = [name for name in self.dataset.decisive if not (part.all_labels and name in OF_LABELS)]
        configured = {name: getattr(self.dataset, name) for name in named}
        share = 1.0 if part.teaches else self.dataset.student_fraction
        return {**measured, **vars(self.shape), **configured, "student_fraction": share}
