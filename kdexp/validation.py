"""Everything that can be wrong with a configuration, found before anything is read, written or trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdexp.arguments import InvalidArguments, Problem, did_you_mean, first_cause, first_line, listed, problems, refusals
from kdexp.config import arguments, as_plain, build, conf_dir, nodes_within, target
from kdexp.data.dataset import ImageDataset
from kdexp.device import RandomStream, device_complaint, pick_device
from kdexp.distillation.base import Distiller
from kdexp.evaluation import same_answers
from kdexp.features import Capture
from kdexp.network import Shape, device_of, starts_trained, with_values, without_start
from kdexp.network_check import check_network
from kdexp.overrides import all_paths, unknown_key
from kdexp.parts import PARTS, Part, node_at, part_of, teacher_paths
from kdexp.preparation import probe_of
from kdexp.published import complaints
from kdexp.settings import NAMES, Settings

GIVE_START = "give student.checkpoint=FILE, or student.weights where the network has published ones"

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
NETWORKS = ("teacher", "student")
Ask = Callable[[nn.Module, tuple[str, ...], Shape], Capture]
GROUPS = {
    "teacher_optimizer": "optimizer@",
    "teacher_schedule": "schedule@",
    "baseline": "distillation@",
    "label_smoothing": "distillation@",
}
"""How the option of a node is chosen that is not named like its group."""

LIKELY_BATCH = 64
"""Stands in for a batch size where none is known."""


def validate(config: Mapping[str, Any]) -> list[Problem]:
    """All problems of a composed configuration: keys, types and ranges first, then what only built parts can tell."""
    return Validator().problems(config)


class Validator:
    """Validates the jobs of one command; what several of them share is looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._capture: Ask = cache(_capture)

    def _once(self, look: Callable[[], Any], *at: Any) -> Any:
        """What `look` returns; it is called unless something looked `at` the same before."""
        key = json.dumps(at, sort_keys=True, default=vars)
        if key not in self._known:
            self._known[key] = look()
        return self._known[key]

    def problems(self, config: Mapping[str, Any]) -> list[Problem]:
        """What `validate` returns."""
        plain = as_plain(config)
        found = [*_settings(plain), *complaints(plain.get("published"))]
        teachers = teacher_paths(plain)
        networks = [*teachers, "student"]
        taught = [path for path in teachers if "distillation" in node_at(plain, path)]
        broken = set()
        for path in (*REQUIRED, *teachers, *(f"{path}.distillation" for path in taught)):
            at = (path, node_at(plain, path), path in networks)
            of_node = self._once(partial(list, _node(*at)), *at)
            broken |= {path} if of_node else set()
            found += of_node
        if "dataset" in broken:
            return found
        shape, sentence = self._once(partial(_dataset, plain["dataset"]), "shape", plain["dataset"])
        found += [Problem("", sentence)] if sentence else []
        if not shape.num_classes:  # then nothing is known that a network could be built for
            return found
        nets: dict[str, nn.Module | None] = {}
        for path in (path for path in networks if not any(f"{name}.".startswith(f"{path}.") for name in broken)):
            network = (path, node_at(plain, path), shape, plain["dataset"])
            nets[path], of_network = self._once(partial(check_network, *network), *network)
            found += of_network
        for path in (*taught, "student"):
            found += self._of_method(path, plain, nets, shape, broken)
        return found

    def _of_method(
        self, path: str, plain: dict[str, Any], nets: dict[str, nn.Module | None], shape: Shape, broken: set[str]
    ) -> list[Problem]:
        """Problems of the method by which the network at `path` learns from its teacher, and of the control rows."""
        part = part_of("distilled" if path == "student" else path, plain)
        pair = {"student": nets.get(path), "teacher": nets.get(part.teacher)}
        without = path == "student" and not plain.get("teacher")
        if part.method in broken or pair["student"] is None or (pair["teacher"] is None and not without):
            return []
        node, batch_size = node_at(plain, part.method), plain["batch_size"]
        if of_peers := list(self._peers(part.method, node, plain, shape)):
            return of_peers
        of_method = _method(part, node, pair, shape, batch_size, self._capture)
        if path == "student":
            of_method = chain(of_method, _controls(plain, pair, shape, self._capture))
        asked = [plain.get(name) for name in ("distillation", "teacher", "student", "controls", "batch_size")]
        return self._once(partial(list, of_method), path, *asked, shape)

    def _peers(self, path: str, method: dict[str, Any], plain: dict[str, Any], shape: Shape) -> Iterator[Problem]:
        """Problems of the networks that a method builds, but for those that are the student's or the teacher's anyway."""
        looked_at = [without_start(plain[role]) for role in NETWORKS if plain.get(role)]
        for name, node in nodes_within(method).items():
            peer, at = without_start(node), f"{path}.{name}"
            if peer not in looked_at and not _is_method(peer):
                of_node = self._once(partial(list, _node(at, peer, True)), at, peer)
                on_data = (at, peer, shape, plain["dataset"])
                yield from of_node or self._once(partial(check_network, *on_data), *on_data)[1]


def _dataset(node: dict[str, Any]) -> tuple[Shape, str]:
    """What networks must know of a data set, and why it can't be read (empty if nothing is known against it)."""
    dataset: ImageDataset = build(node)
    return Shape(dataset.num_classes, dataset.in_channels, dataset.image_size), dataset.missing()


def _settings(plain: dict[str, Any]) -> Iterator[Problem]:
    known = {name: node for name, node in plain.items() if name in (*NAMES, *REQUIRED, "teacher", "published", "choices")}
    yield from (Problem(name, unknown_key(name, all_paths(known))) for name in plain if name not in known)
    given = {name: plain[name] for name in NAMES if name in plain}
    of_settings = problems(Settings, given)
    yield from of_settings
    faulty = {problem.name for problem in of_settings}
    if "device" not in faulty and (complaint := device_complaint(given["device"])):
        yield Problem("device", complaint)
    elif "device" not in faulty and given.get("precision") == "tf32" and pick_device(given["device"]).type != "cuda":
        yield Problem("precision", "='tf32': only CUDA devices have TF32; use precision=auto or bf16")


def _node(name: str, node: Any, is_network: bool) -> Iterator[Problem]:
    """Problems of one `_target_` node, its path in front of their names."""
    if isinstance(node, str) and is_network and name not in NETWORKS:
        known = sorted(file.stem for file in Path(conf_dir(), "model").glob("*.yaml"))
        yield Problem(name, f"={node!r}: no such network;{did_you_mean(node, known)} known: {listed(known)}")
        return
    if not isinstance(node, dict) or "_target_" not in node:
        group = GROUPS.get(name, "")
        what = "missing" if node is None else f"={node!r}: is a group, chosen with {group}{name}=OPTION"
        yield Problem(name, what)
        return
    try:
        made = target(node)
    except Exception as error:  # importing a user's module may raise anything
        cause = first_cause(error)
        why = f"{type(cause).__name__}: {first_line(cause)}"
        yield Problem(f"{name}._target_", f"={node['_target_']!r}: can't be imported ({why})")
        return
    given = arguments(node)
    later = list(asdict(Shape(0, 0, 0))) if is_network else []
    if is_network and given.pop("checkpoint", None) is not None:
        yield from _checkpoint_file(name, node["checkpoint"])
    if is_network and name != "student":
        yield from _half_taught(name, given.pop("teacher", None), given.pop("distillation", None))
    if name == "student":
        yield from _frozen(given.pop("frozen_backbone", False), node)
    found = problems(made, given, given_later=later)
    yield from (problem.under(name) for problem in found)
    if not found and not later:
        yield from _constructor(name, node)


def _is_method(node: dict[str, Any]) -> bool:
    """Whether a node names a distillation method."""
    try:
        made = target(node)
    except Exception:  # importing a user's module may raise anything
        return False
    return isinstance(made, type) and issubclass(made, Distiller)


def _constructor(name: str, node: dict[str, Any]) -> Iterator[Problem]:
    """What only the constructor itself knows to refuse: combinations of arguments."""
    try:
        build(node)
    except Exception as error:
        yield from (problem.under(name) for problem in refusals(error))


def _checkpoint_file(name: str, path: Any) -> Iterator[Problem]:
    if not isinstance(path, str) or not Path(path).is_file():
        yield Problem(f"{name}.checkpoint", f"={path!r}: no such file")


def _half_taught(name: str, teacher: Any, distillation: Any) -> Iterator[Problem]:
    if teacher is not None and distillation is None:
        yield Problem(f"{name}.distillation", f"missing: how {name}.teacher teaches; +distillation@{name}.distillation=kd")
    if distillation is not None and teacher is None:
        yield Problem(f"{name}.teacher", f"missing: whom {name}.distillation learns from; +teacher@{name}.teacher=NETWORK")


def _frozen(frozen: Any, node: dict[str, Any]) -> Iterator[Problem]:
    if not isinstance(frozen, bool):
        yield Problem("student.frozen_backbone", f"={frozen!r}: must be true or false")
    elif frozen and not starts_trained(node):
        yield Problem("student.frozen_backbone", f"=True: an untrained backbone is worth nothing; {GIVE_START}")


def _controls(plain: dict[str, Any], nets: dict[str, Any], shape: Shape, ask: Ask) -> Iterator[Problem]:
    """Whether the control rows make sense with this student and this method."""
    asked, student = plain["controls"], plain["student"]
    if not isinstance(asked, list):
        return
    for control in {"from_scratch", "frozen_backbone"} & set(asked):
        if not starts_trained(student):
            yield Problem("controls", f"={control}: compares with a student that starts from trained weights; {GIVE_START}")
    taught = {"random_teacher", "self_teacher"} & set(asked)
    if taught and not build(plain["distillation"]).uses_teacher:
        yield Problem("controls", f"={min(taught)}: needs a method that learns from a teacher; choose one: distillation=kd")
    elif "self_teacher" in taught and nets["teacher"] is not None:
        itself = {"student": nets["student"], "teacher": nets["student"]}
        of_itself = _method(PARTS["distilled"], plain["distillation"], itself, shape, plain["batch_size"], ask)
        yield from (Problem("controls", f"=self_teacher: {problem.sentence}") for problem in of_itself)


def _method(
    part: Part, node: dict[str, Any], nets: dict[str, Any], shape: Shape, batch_size: Any, ask: Ask
) -> Iterator[Problem]:
    """Whether the method can join these two networks: its layers exist, run, and have shapes that it can compare."""
    distiller: Distiller = build(node)
    if not distiller.describe():
        yield Problem(part.method, "every weight is 0, so there is nothing to learn from")
    student, teacher = nets["student"], nets["teacher"] if distiller.uses_teacher else None
    if distiller.uses_teacher and teacher is None:
        yield Problem(part.teacher, "=None: this method learns from a teacher; choose one, or distillation=none")
        return
    labels = torch.arange(shape.num_classes)
    try:
        ours, theirs = distiller.layers(student, teacher) if teacher else ([], [])
        pair = (ask(student, tuple(ours), shape), ask(teacher, tuple(theirs), shape) if teacher else None)
        with torch.device("meta"):
            distiller.setup(probe_of(*pair, labels, batch_size if isinstance(batch_size, int) else LIKELY_BATCH, shape))
        if distiller.deploys_more and teacher:
            complaints = _deployed(build(node), with_values(student), with_values(teacher), shape)
            yield from (Problem(part.method, f"what it deploys {complaint}") for complaint in complaints)
    except ValueError as error:
        found = error.problems if isinstance(error, InvalidArguments) else [Problem("", str(error))]
        yield from (problem.under(part.method) for problem in found)


def _capture(network: nn.Module, layers: tuple[str, ...], shape: Shape) -> Capture:
    """The network and what it says of a probe batch, as tensors that have shapes but no values."""
    device = device_of(network)
    with torch.device(device):
        capture = Capture(network, layers, shape.probe(device))
    capture.probe = capture.probe.map(lambda values: values.to("meta"))
    capture.model = network if device.type == "meta" else deepcopy(network).to("meta")
    return capture


def _deployed(distiller: Distiller, student: nn.Module, teacher: nn.Module, shape: Shape) -> Iterator[str]:
    """What can be said against what the method deploys: that it gives no logits, or not those that its losses look at."""
    image = torch.rand(shape.probe("cpu", images=1).shape, generator=torch.Generator().manual_seed(0))
    layers = distiller.layers(student, teacher)
    ours, theirs = (Capture(net, names, image) for net, names in zip((student, teacher), layers, strict=True))
    with RandomStream(0, image.device):
        distiller.setup(probe_of(ours, theirs, torch.arange(shape.num_classes), LIKELY_BATCH, shape))
    distiller.eval()
    with torch.no_grad():
        trained = distiller.answer(ours.probe).logits
        try:
            logits = distiller.deployed(student, teacher)(image)
        except Exception as error:  # a network put together of two may fail anyhow
            yield f"does not run: {first_line(error)}"
            return
    if logits.shape[1:] != (shape.num_classes,):
        yield f"answers with {list(logits.shape)}, not with [N, {shape.num_classes}]"
    elif not same_answers(logits, trained):
        yield "does not answer as what it trains; choose other student_layers"
