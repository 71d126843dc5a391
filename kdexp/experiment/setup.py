"""A composed configuration on this machine: device, precision, data set, and the roles of the learners that it requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdexp.configuration.compose import as_plain
from kdexp.configuration.nodes import build, target
from kdexp.configuration.roles import RoleSpec, node_at, role_spec, sources_of
from kdexp.configuration.settings import NAMES, Settings
from kdexp.data.dataset import ImageDataset
from kdexp.data.load import Data, load
from kdexp.data.placement import Placement
from kdexp.data.shape import Shape
from kdexp.data.unread import UnreadData, look_up
from kdexp.device import threads
from kdexp.device.precision import Precision, pick_device
from kdexp.device.rank_plan import plan_ranks
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.files import at_home
from kdexp.network.build import device_of, sketch_network
from kdexp.network.cost import multiply_adds
from kdexp.pretraining.settings import is_chosen, method_of
from kdexp.store.stored import SUMMARIES


class Setup:
    """A validated configuration with everything that its learners share."""

    def __init__(self, config: Mapping[str, Any], journal: Journal, session: Session | None = None, job: str = ""):
        self.config = as_plain(config)
        self.journal = journal
        self.session = session or Session()
        self.job = job
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
        is_student = self.uses_teacher(role) and not part.teaches
        return [part.teacher] if is_student else sources_of(role, self.config)

    def part(self, role: str) -> RoleSpec:
        """The configuration nodes that this role is built from."""
        return role_spec(role, self.config)

    def method_node(self, part: RoleSpec) -> dict[str, Any]:
        """The node of the method by which a learner is trained."""
        node = node_at(self.config, part.method)
        if part.pretrains:
            return method_of(node)
        return {**node, "student_view": part.student_view} if part.student_view else node

    def uses_teacher(self, role: str) -> bool:
        """Whether a learner is taught by or made of another one."""
        part = self.part(role)
        return part.quantised or bool(target(node_at(self.config, part.method)).uses_teacher)
