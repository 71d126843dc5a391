"""Checks a configuration for everything that can be wrong with it, before anything is read, written or trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

from torch import nn

from kdexp.configuration.arguments import misfit
from kdexp.configuration.compose import as_plain
from kdexp.configuration.nodes import build, nodes_within, target
from kdexp.configuration.roles import Control, node_at, role_spec, teacher_paths
from kdexp.configuration.settings import NAMES
from kdexp.data.dataset import ImageDataset
from kdexp.data.shape import Shape
from kdexp.device.memory import free_memory
from kdexp.device.precision import pick_device
from kdexp.distillation.base import Distiller
from kdexp.errors import Problem
from kdexp.network.build import without_start
from kdexp.network.footprint import Room
from kdexp.network.headless import head_of
from kdexp.pretraining.settings import is_chosen
from kdexp.report.published import published_problems
from kdexp.training.sketch import Ask, capture_sketch
from kdexp.validation.averaging import check_averaging
from kdexp.validation.checkpoints import check_frozen, check_head, check_reader, check_start
from kdexp.validation.class_weights import check_class_weights
from kdexp.validation.methods import check_controls, check_method
from kdexp.validation.networks import check_network
from kdexp.validation.nodes import NETWORKS, REQUIRED, check_node, is_method
from kdexp.validation.pretraining import check_nodes, check_pretraining
from kdexp.validation.ranks import check_ranks
from kdexp.validation.settings import check_settings
from kdexp.validation.views import UNKNOWN_IMAGES, TrainingImages, check_views
from kdexp.validation.views import check_controls as check_label_controls


def validate(config: Mapping[str, Any]) -> list[Problem]:
    """All problems of a composed configuration: keys, types and ranges first, then those that only built objects show."""
    return Validator().problems(config)


def cached(check: Callable) -> Callable:
    """The function, called once for equal arguments: nodes are dictionaries, which `functools.cache` refuses."""
    results: dict[str, Any] = {}

    @wraps(check)
    def call(*arguments: Any) -> Any:
        key = json.dumps(arguments, default=vars)
        if key not in results:
            results[key] = check(*arguments)
        return results[key]

    return call


UNKNOWN = Shape(0, 0, 0)


@dataclass
class Candidate:
    """A configuration under validation, with what each stage finds out for the stages after it."""

    config: dict[str, Any]
    broken: set[str] = field(default_factory=set)
    """Paths of nodes that can't be built."""
    shape: Shape = UNKNOWN
    classes: list[str] | None = None
    """Names of the data's classes, where they have any."""
    images: TrainingImages = UNKNOWN_IMAGES
    rooms: dict[str, Room] = field(default_factory=dict)
    """The memory for each network, by the path of its node."""
    networks: dict[str, nn.Module | None] = field(default_factory=dict)
    """Networks by the path of their node; None for one that can't be used."""

    def __post_init__(self) -> None:
        self.teachers = teacher_paths(self.config)
        self.network_paths = [*self.teachers, "student"]
        self.distilled_teachers = [path for path in self.teachers if _has_method(self.node(path))]

    @property
    def averages(self) -> bool:
        """Whether students have a moving average of their weights, unless the node is broken."""
        return bool(build(self.config["averaging"]).describe())

    def node(self, path: str) -> Any:
        """The node at a path such as `teacher.members.0`."""
        return node_at(self.config, path)


class Validator:
    """Validates the jobs of one command; what they have in common is checked once.

    With `elsewhere`, nothing is checked that depends on the device of the machine which will run them.
    """

    def __init__(self, *, elsewhere: bool = False) -> None:
        self._elsewhere = elsewhere
        self._check_node = cached(lambda *arguments: list(check_node(*arguments)))
        self._read_dataset = cached(_read_dataset)
        self._read_folder = cached(_read_folder)
        self._check_network = cached(check_network)
        self._check_start = cached(check_start)
        self._free_memory = cache(free_memory)
        self._capture: Ask = cache(capture_sketch)
        self._method_problems: dict[str, list[Problem]] = {}

    def problems(self, config: Mapping[str, Any], *, parts: bool = True) -> list[Problem]:
        """All problems of a configuration; unless `parts`, only those that show without building anything from it."""
        candidate = Candidate(as_plain(config))
        found = [
            *check_settings(candidate.config, elsewhere=self._elsewhere),
            *published_problems(candidate.config.get("published")),
            *self._nodes(candidate),
        ]
        if not parts or "dataset" in candidate.broken or not candidate.config.keys() >= set(NAMES):
            return found
        found += self._dataset(candidate)
        if not candidate.shape.num_classes:  # then no network can be built
            return found
        if "class_weights" not in {problem.name for problem in found}:
            shared = (candidate.shape.num_classes, candidate.broken, candidate.distilled_teachers)
            found += check_class_weights(candidate.config, *shared)
        if not {"devices", "device", "output_dir"} & {problem.name for problem in found}:
            found += check_ranks(candidate.config, candidate.broken, candidate.distilled_teachers)
        if "averaging" not in candidate.broken:
            found += check_averaging(candidate.config, candidate.broken, candidate.distilled_teachers)
        candidate.rooms = self._rooms(candidate, found)
        found += self._networks(candidate)
        found += self._starts(candidate)
        found += self._methods(candidate)
        found += self._pretraining(candidate)
        return found

    def _nodes(self, candidate: Candidate) -> list[Problem]:
        """Problems of nodes: their classes and arguments. Fills in `candidate.broken`."""
        found: list[Problem] = []
        for path in (*REQUIRED, *candidate.teachers, *(f"{path}.distillation" for path in candidate.distilled_teachers)):
            of_node = self._node(path, candidate.node(path), path in candidate.network_paths)
            found += of_node
            if of_node:
                candidate.broken.add(path)
        if candidate.config.get("pretraining") is not None:
            of_pretraining = list(check_nodes(candidate.node("pretraining"), self._check_node))
            found += of_pretraining
            candidate.broken |= {"pretraining"} if of_pretraining else set()
        return found

    def _node(self, path: str, node: Any, is_network: bool) -> list[Problem]:
        """Problems of one node, and of the strong augmentations inside that of the data set."""
        found: list[Problem] = []
        for name in ("strong", "strong_view") if path == "dataset" and isinstance(node, dict) else ():
            if node.get(name) is not None and (of_policy := self._check_node(f"dataset.{name}", node[name], False)):
                found += of_policy
                node = {**node, name: None}  # the rest is checked all the same
        return found + self._check_node(path, node, is_network)

    def _dataset(self, candidate: Candidate) -> list[Problem]:
        """Problems of the data as a whole. Fills in `candidate.shape`, `candidate.classes` and `candidate.images`."""
        node = candidate.config["dataset"]
        candidate.shape, candidate.classes, candidate.images, sentence = self._read_dataset(node)
        found = [Problem("", sentence)] if sentence else []
        if dataset_problem := self._read_folder(node):
            found.append(Problem("", dataset_problem))
        if candidate.config.get("memory") == "disk" and target(node).image_files is ImageDataset.image_files:
            sentence = "='disk': only dataset=image_folder can be decoded during training; choose auto or ram"
            found.append(Problem("memory", sentence))
        return found

    def _rooms(self, candidate: Candidate, found: list[Problem]) -> dict[str, Room]:
        """The memory for each network and, if it is trained, for its gradients and optimizer state."""
        bad = {problem.name.partition(".")[0] for problem in found}
        device = pick_device("cpu" if "device" in bad or self._elsewhere else candidate.config["device"])
        free = sys.maxsize if self._elsewhere else self._free_memory(device)
        return {path: self._room(candidate, path, free, bad) for path in candidate.network_paths}

    def _room(self, candidate: Candidate, path: str, free: int, bad: set[str]) -> Room:
        node, part = candidate.node(path), role_spec("baseline" if path == "student" else path, candidate.config)
        if not isinstance(node, dict) or part.optimizer in bad:
            return Room(free)
        if "members" in node or node.get("frozen_backbone") or head_of(node) or (part.teaches and node.get("checkpoint")):
            return Room(free)
        averaged = not part.teaches and "averaging" not in candidate.broken and candidate.averages
        return Room(free, 2 + getattr(build(candidate.node(part.optimizer)), "moments", 0) + averaged)

    def _networks(self, candidate: Candidate) -> list[Problem]:
        """Problems of networks that can be built: whether they fit, run, and give logits. Fills in `candidate.networks`."""
        found: list[Problem] = []
        for path in candidate.network_paths:
            if any(f"{name}.".startswith(f"{path}.") for name in candidate.broken):
                continue
            room, dataset = candidate.rooms[path], candidate.config["dataset"]
            candidate.networks[path], of_network = self._check_network(
                path, candidate.node(path), candidate.shape, dataset, room
            )
            found += of_network
        return found

    def _starts(self, candidate: Candidate) -> list[Problem]:
        """Problems of networks with their checkpoints, and of methods that read what a checkpoint does not have."""
        found: list[Problem] = []
        for path, network in candidate.networks.items():
            if network is None:
                continue
            start, of_start = self._check_start(path, candidate.node(path), candidate.shape, candidate.classes)
            found += of_start
            if path == "student":
                found += check_frozen(candidate.config["student"], candidate.config.get("controls"), network, start)
            else:
                found += check_head(path, candidate.node(path), network, start)
                found += check_reader(path, start, candidate.config, candidate.networks, candidate.broken)
        return found

    def _methods(self, candidate: Candidate) -> list[Problem]:
        """Problems of the methods by which the student and teachers learn from their teachers, and of the control rows."""
        return [problem for path in (*candidate.distilled_teachers, "student") for problem in self._method(candidate, path)]

    def _method(self, candidate: Candidate, path: str) -> list[Problem]:
        """Problems of the method by which the network at `path` learns."""
        config = candidate.config
        part = role_spec("distilled" if path == "student" else path, config)
        pair = {"student": candidate.networks.get(path), "teacher": candidate.networks.get(part.teacher)}
        has_no_teacher = path == "student" and not config.get("teacher")
        if part.method in candidate.broken or pair["student"] is None or (pair["teacher"] is None and not has_no_teacher):
            return []
        method: Distiller = build(candidate.node(part.method))
        of_views = list(check_views(method, part.method, candidate.images))
        if isinstance(epochs := config.get("teacher_epochs" if part.teaches else "epochs"), int):
            of_views += [problem.under(part.method) for problem in method.length_problems(epochs)]
        if path == "student" and not misfit(config["controls"], list[Control]):
            of_views += check_label_controls(config["controls"], candidate.images)
        room = candidate.rooms[path]
        if of_peers := self._peers(candidate, part.method, room):
            return of_peers
        decisive = [config.get(name) for name in ("distillation", "teacher", "student", "controls", "batch_size")]
        key = json.dumps([path, *decisive, candidate.shape], default=vars)
        if key not in self._method_problems:
            common = (pair, candidate.shape, config["batch_size"], self._capture, room)
            found = list(check_method(part, candidate.node(part.method), *common))
            if path == "student":
                found += check_controls(config, *common)
            self._method_problems[key] = found
        return [*of_views, *self._method_problems[key]]

    def _pretraining(self, candidate: Candidate) -> list[Problem]:
        """Problems of the pretraining of the student's network."""
        student = candidate.networks.get("student")
        if not is_chosen(candidate.config) or "pretraining" in candidate.broken or student is None:
            return []
        common = (candidate.shape, self._capture, candidate.rooms["student"])
        return list(check_pretraining(candidate.config, student, candidate.images, *common))

    def _peers(self, candidate: Candidate, path: str, room: Room) -> list[Problem]:
        """Problems of the networks that a method builds, unless they equal the student's or the teacher's."""
        checked = [without_start(candidate.config[role]) for role in NETWORKS if candidate.config.get(role)]
        found: list[Problem] = []
        for name, node in nodes_within(candidate.node(path)).items():
            peer, peer_path = without_start(node), f"{path}.{name}"
            if peer not in checked and not is_method(peer):
                of_node = self._check_node(peer_path, peer, True)
                found += of_node or self._check_network(peer_path, peer, candidate.shape, candidate.config["dataset"], room)[1]
        return found


def _has_method(node: Any) -> bool:
    """Whether a teacher is distilled from a teacher of its own."""
    return isinstance(node, dict) and "distillation" in node


def _read_dataset(node: dict[str, Any]) -> tuple[Shape, list[str] | None, TrainingImages, str]:
    """The shape of the data, the names of the classes, how images are used, and why they can't be read, if known."""
    dataset: ImageDataset = build(node)
    shape = Shape(dataset.num_classes, dataset.in_channels, dataset.image_size)
    return shape, dataset.classes, TrainingImages.of(dataset), dataset.missing()


def _read_folder(node: dict[str, Any]) -> str:
    """Why the images of `dataset.unlabelled_root` can't be read, if known."""
    dataset: ImageDataset = build(node)
    return "" if dataset.unlabelled is None else dataset.unlabelled.problem(dataset.in_channels)
