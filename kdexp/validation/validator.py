"""Everything that can be wrong with a configuration, found before anything is read, written or trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import chain
from typing import Any

from torch import nn

from kdexp.configuration.arguments import misfit, problems
from kdexp.configuration.compose import as_plain
from kdexp.configuration.keys import all_paths, unknown_key
from kdexp.configuration.nodes import build, nodes_within, target
from kdexp.configuration.roles import PARTS, Control, node_at, part_of, teacher_paths
from kdexp.configuration.settings import NAMES, Settings
from kdexp.data.dataset import ImageDataset
from kdexp.data.shape import Shape
from kdexp.device.memory import free_memory
from kdexp.device.precision import compiler_complaint, device_complaint, pick_device
from kdexp.errors import Problem
from kdexp.experiment.starts import check_frozen, check_reader, check_start
from kdexp.files import folder_problems
from kdexp.network.build import starts_trained, without_start
from kdexp.network.footprint import Room
from kdexp.report.published import published_problems
from kdexp.training.sketch import Ask, capture_sketch
from kdexp.validation.methods import check_method
from kdexp.validation.networks import check_network
from kdexp.validation.nodes import GIVE_START, NETWORKS, check_node, is_method

REQUIRED = (
    "dataset",
    "student",
    "distillation",
    "baseline",
    "label_smoothing",
    "optimizer",
    "teacher_optimizer",
    "schedule",
    "teacher_schedule",
)

UNTAUGHT = {"baseline": "the baseline", "label_smoothing": "controls=[label_smoothing]"}
"""Methods that train rows without a teacher, and these rows."""


def validate(config: Mapping[str, Any]) -> list[Problem]:
    """All problems of a composed configuration: keys, types and ranges first, then what only built parts can tell."""
    return Validator().problems(config)


class Validator:
    """Validates the jobs of one command; what several of them share is looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._capture: Ask = cache(capture_sketch)

    def _once(self, look: Callable[[], Any], *at: Any) -> Any:
        """What `look` returns; it is called unless something looked `at` the same before."""
        key = json.dumps(at, default=vars)
        if key not in self._known:
            self._known[key] = look()
        return self._known[key]

    def problems(self, config: Mapping[str, Any], *, parts: bool = True) -> list[Problem]:
        """What `validate` returns; unless `parts`, without what only built parts can tell."""
        plain = as_plain(config)
        found = [*_settings(plain), *published_problems(plain.get("published"))]
        teachers = teacher_paths(plain)
        networks = [*teachers, "student"]
        taught = [path for path in teachers if isinstance(node := node_at(plain, path), dict) and "distillation" in node]
        broken = set()
        for path in (*REQUIRED, *teachers, *(f"{path}.distillation" for path in taught)):
            at = (path, node_at(plain, path), path in networks)
            of_node = self._once(partial(list, check_node(*at)), *at)
            of_node = of_node or list(_without_teacher(path, node_at(plain, path)))
            broken |= {path} if of_node else set()
            found += of_node
        if "dataset" in broken or not parts or not plain.keys() >= set(NAMES):
            return found
        shape, classes, sentence = self._once(partial(_dataset, plain["dataset"]), "shape", plain["dataset"])
        found += [Problem("", sentence)] if sentence else []
        if plain.get("memory") == "disk" and target(plain["dataset"]).image_files is ImageDataset.image_files:
            found.append(
                Problem("memory", "='disk': only dataset=image_folder can be decoded again and again, choose auto or ram")
            )
        if not shape.num_classes:  # then nothing is known that a network could be built for
            return found
        nets: dict[str, nn.Module | None] = {}
        rooms = {path: self._room(path, plain, found) for path in networks}
        for path in (path for path in networks if not any(f"{name}.".startswith(f"{path}.") for name in broken)):
            network = (path, node_at(plain, path), shape, plain["dataset"], rooms[path])
            nets[path], of_network = self._once(partial(check_network, *network), *network)
            found += of_network
        found += self._of_starts(plain, nets, shape, classes, broken)
        for path in (*taught, "student"):
            found += self._of_method(path, plain, nets, shape, broken, rooms[path])
        return found

    def _room(self, path: str, plain: dict[str, Any], found: list[Problem]) -> Room:
        """The memory for the network at `path`, as far as device and optimizer are without problems."""
        named = {problem.name.partition(".")[0] for problem in found}
        device = pick_device("cpu" if "device" in named else plain["device"])
        free = self._once(partial(free_memory, device), "free memory", device.type)
        node, part = node_at(plain, path), part_of("baseline" if path == "student" else path, plain)
        if not isinstance(node, dict) or part.optimizer in named:
            return Room(free)
        if "members" in node or node.get("frozen_backbone") or (part.teaches and node.get("checkpoint")):
            return Room(free)
        return Room(free, 2 + getattr(build(plain[part.optimizer]), "moments", 0))

    def _of_starts(
        self,
        plain: dict[str, Any],
        nets: dict[str, nn.Module | None],
        shape: Shape,
        classes: list[str] | None,
        broken: set[str],
    ) -> list[Problem]:
        """Problems of networks with their checkpoints, and of methods that read what a checkpoint does not have."""
        found: list[Problem] = []
        for path, network in nets.items():
            if network is None:
                continue
            at = (path, node_at(plain, path), shape, classes)
            start, of_start = self._once(partial(check_start, *at), "start", *at)
            found += of_start
            if path == "student":
                found += check_frozen(plain["student"], plain.get("controls"), network, start)
            elif start is not None:
                found += check_reader(path, start, plain, nets, broken)
        return found

    def _of_method(
        self,
        path: str,
        plain: dict[str, Any],
        nets: dict[str, nn.Module | None],
        shape: Shape,
        broken: set[str],
        room: Room,
    ) -> list[Problem]:
        """Problems of the method by which the network at `path` learns from its teacher, and of the control rows."""
        part = part_of("distilled" if path == "student" else path, plain)
        pair = {"student": nets.get(path), "teacher": nets.get(part.teacher)}
        without = path == "student" and not plain.get("teacher")
        if part.method in broken or pair["student"] is None or (pair["teacher"] is None and not without):
            return []
        node, batch_size = node_at(plain, part.method), plain["batch_size"]
        if of_peers := list(self._peers(part.method, node, plain, shape, room)):
            return of_peers
        of_method = check_method(part, node, pair, shape, batch_size, self._capture, room)
        if path == "student":
            of_method = chain(of_method, _controls(plain, pair, shape, self._capture, room))
        asked = [plain.get(name) for name in ("distillation", "teacher", "student", "controls", "batch_size")]
        return self._once(partial(list, of_method), path, *asked, shape)

    def _peers(self, path: str, method: dict[str, Any], plain: dict[str, Any], shape: Shape, room: Room) -> Iterator[Problem]:
        """Problems of the networks that a method builds, but for those that are the student's or the teacher's anyway."""
        looked_at = [without_start(plain[role]) for role in NETWORKS if plain.get(role)]
        for name, node in nodes_within(method).items():
            peer, at = without_start(node), f"{path}.{name}"
            if peer not in looked_at and not is_method(peer):
                of_node = self._once(partial(list, check_node(at, peer, True)), at, peer)
                on_data = (at, peer, shape, plain["dataset"], room)
                yield from of_node or self._once(partial(check_network, *on_data), *on_data)[1]


def _dataset(node: dict[str, Any]) -> tuple[Shape, list[str] | None, str]:
    """What networks must know of a data set, its classes' names, and why it can't be read (empty if nothing is known)."""
    dataset: ImageDataset = build(node)
    return Shape(dataset.num_classes, dataset.in_channels, dataset.image_size), dataset.classes, dataset.missing()


def _settings(plain: dict[str, Any]) -> Iterator[Problem]:
    known = {name: node for name, node in plain.items() if name in (*NAMES, *REQUIRED, "teacher", "published", "choices")}
    yield from (Problem(str(name), unknown_key(str(name), all_paths(known))) for name in plain if name not in known)
    given = {name: plain[name] for name in NAMES if name in plain}
    of_settings = problems(Settings, given)
    yield from of_settings
    faulty = {problem.name for problem in of_settings}
    yield from _folders({name: given[name] for name in ("output_dir", "store") if name not in faulty})
    if "controls" not in faulty:
        twice = [control for control, count in Counter(given["controls"]).items() if count > 1]
        yield from (Problem("controls", f"={control}: given more than once; keep one") for control in twice)
    if "device" not in faulty and (complaint := device_complaint(given["device"])):
        yield Problem("device", complaint)
    elif "device" not in faulty:
        yield from _ways(given, pick_device(given["device"]).type)


def _folders(named: dict[str, str]) -> Iterator[Problem]:
    """Folders that can't be made; one inside another is not mentioned again."""
    found: dict[str, list[str]] = {}
    for name, folder in named.items():
        if not any(folder.startswith(f"{named[other]}/") for other in found):
            found |= {name: why} if (why := folder_problems(folder)) else {}
    yield from (Problem(name, f"={named[name]!r}: {sentence}") for name, why in found.items() for sentence in why)


def _without_teacher(path: str, node: dict[str, Any]) -> Iterator[Problem]:
    """Refuses a method with a teacher where there is none."""
    if path in UNTAUGHT and build(node).uses_teacher:
        option = path if path == "label_smoothing" else "none"
        yield Problem(path, f"learns from a teacher, and {UNTAUGHT[path]} has none; choose distillation@{path}={option}")


def _ways(given: dict[str, Any], device: str) -> Iterator[Problem]:
    """What the device can't do of how numbers are to be computed."""
    if given.get("precision") == "tf32" and device != "cuda":
        yield Problem("precision", "='tf32': only CUDA devices have TF32; use precision=auto or bf16")
    if given.get("graph") is True and device != "cuda":
        yield Problem("graph", f"=True: only CUDA devices replay graphs, and this is {device}; leave graph=false")
    if given.get("compile") is True and (complaint := compiler_complaint(device)):
        yield Problem("compile", f"=True: {complaint}")


def _controls(plain: dict[str, Any], nets: dict[str, Any], shape: Shape, ask: Ask, room: Room) -> Iterator[Problem]:
    """Whether the control rows make sense with this student and this method."""
    asked, student = plain["controls"], plain["student"]
    if misfit(asked, list[Control]):
        return
    for control in {"from_scratch", "frozen_backbone"} & set(asked):
        if not starts_trained(student):
            yield Problem("controls", f"={control}: compares with a student that starts from trained weights; {GIVE_START}")
    taught = {"random_teacher", "self_teacher"} & set(asked)
    if taught and not build(plain["distillation"]).uses_teacher:
        yield Problem("controls", f"={min(taught)}: needs a method that learns from a teacher; choose one: distillation=kd")
    elif "self_teacher" in taught and nets["teacher"] is not None:
        itself = {"student": nets["student"], "teacher": nets["student"]}
        of_itself = check_method(PARTS["distilled"], plain["distillation"], itself, shape, plain["batch_size"], ask, room)
        yield from (Problem("controls", f"=self_teacher: {problem.sentence}") for problem in of_itself)
