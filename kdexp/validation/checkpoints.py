"""Problems with the checkpoints that networks start from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdexp.configuration.nodes import build
from kdexp.configuration.roles import node_at, option, role_spec
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller
from kdexp.errors import BadCheckpoint, BadFreshLayer, Problem, listed
from kdexp.experiment.starts import load_start
from kdexp.network.checkpoint.fit import Start
from kdexp.network.checkpoint.heads import classifier_name
from kdexp.network.headless import head_of
from kdexp.tasks.classification import same_answers

Node = Mapping[str, Any]


def check_start(path: str, node: Node, shape: Shape, classes: Sequence[str] | None) -> tuple[Start | None, list[Problem]]:
    """How the network of the node at `path` loads its checkpoint (None if there is none or it can't), and the problems with it.

    `classes` are the names of the data's classes, None if they have none. `check_reader` decides whether a teacher may do
    without a trained classifier.
    """
    checkpoint = node.get("checkpoint")
    if not checkpoint or node.get("weights"):
        return None, []
    try:
        network, start = load_start(path, node, shape, classes)
        if start.unfit_stem and path != "student":
            misfits = "; ".join(f"{name} ({reason})" for name, reason in start.unfit_stem.items())
            raise BadCheckpoint(f"{checkpoint} does not fit the first convolution of {type(network).__name__}: {misfits}")
        if start.chosen and path != "student":
            raise BadFreshLayer(
                f"{listed(start.chosen)} would stay untrained, since the teacher is used as in its checkpoint; only its "
                f"classifier ({classifier_name(network)}) can be left out"
            )
        if start.rows and not _same_logits(path, node, shape, network, start):
            raise BadCheckpoint(
                f"{checkpoint} has the data's classes in another order, and {classifier_name(network)} alone does not compute "
                "the logits, so that they can't be reordered; choose a checkpoint whose classes are in the data's order"
            )
    except BadCheckpoint as error:
        return None, [Problem(f"{path}.{error.key}", str(error))]
    return start, []


def _same_logits(path: str, node: Node, shape: Shape, network: nn.Module, start: Start) -> bool:
    """Whether a network with a reordered classifier has the reordered logits of the file's original network."""
    original, _ = load_start(path, node, replace(shape, num_classes=start.classes), None)
    image = torch.rand(shape.probe("cpu").shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return same_answers(network.eval()(image), original.eval()(image)[:, list(start.rows)])


def check_frozen(node: Node, controls: Any, network: nn.Module, start: Start | None) -> Iterator[Problem]:
    """Problems with training only the classifier of a student that has other untrained modules."""
    if not (fresh := _untrained_layers(network, start)):
        return
    how = "is freshly initialised" if start and fresh <= {*start.chosen} else "does not fit the trained weights"
    why = f"{listed(sorted(fresh))} {how} and would stay untrained"
    if node.get("frozen_backbone") is True:
        yield Problem("student.frozen_backbone", f"=True: {why}; student.frozen_backbone=false trains the whole student")
    if isinstance(controls, list) and "frozen_backbone" in controls:
        yield Problem("controls", f"=frozen_backbone: {why}; leave that control out")


def _untrained_layers(network: nn.Module, start: Start | None) -> set[str]:
    """The layers besides the classifier that have no trained weights."""
    published = getattr(network, "published", None)
    return set(start.fresh if start else getattr(published, "fresh", ())) - {classifier_name(network)}


def check_head(path: str, node: Node, network: nn.Module, start: Start | None) -> Iterator[Problem]:
    """Problems with a teacher's head on a backbone that is not trained as a whole."""
    head, fresh = head_of(node), _untrained_layers(network, start)
    if head and fresh:
        yield Problem(
            f"{path}.head",
            f"={head!r}: {listed(sorted(fresh))} does not fit the trained weights and would stay untrained; "
            f"{path}.head=null trains the whole teacher",
        )


def check_reader(
    path: str, start: Start | None, plain: Node, nets: Mapping[str, nn.Module | None], broken: Collection[str]
) -> Iterator[Problem]:
    """Problems with a teacher at `path` without a classifier for the data, if anything reads its logits.

    `broken` are the nodes that can't be built.
    """
    head = head_of(node_at(plain, path))
    if head == "probe" or (head is None and not (start and start.unfit_head)):
        return
    outer = path.rpartition(".")[0]
    if head is None and start:
        key, better = "checkpoint", "a checkpoint with the data's classes"
        misfit = f"={str(start.path)!r}: its classifier does not fit the data ({next(iter(start.unfit_head.values()))})"
    else:
        key, better, misfit = "head", f"{path}.head=probe, which trains a classifier", "='none': it gives no logits"
    if outer.endswith(".members"):
        yield Problem(f"{path}.{key}", f"{misfit}, and an ensemble needs its members' logits; choose another checkpoint")
        return
    learner = outer or "student"
    part = role_spec("distilled" if learner == "student" else learner, plain)
    student, teacher, node = nets.get(learner), nets.get(path), node_at(plain, part.method)
    if part.method in broken:
        return
    method: Distiller = build(node)
    if student is not None and teacher is not None and _reads_classifier(method, student, teacher):
        fix = _override_without_logits(part.method, node, method)
        yield Problem(
            f"{path}.{key}",
            f"{misfit}, and {option(plain, part.method)} reads the teacher's logits; "
            f"take {better}, or a method that reads only features: {fix}",
        )


def _reads_classifier(method: Distiller, student: nn.Module, teacher: nn.Module) -> bool:
    """Whether the method reads the teacher's logits, directly or as one of its named layers."""
    if method.reads_logits or not method.uses_teacher:
        return method.reads_logits
    try:
        layers = method.layers(student, teacher)[1]
    except ValueError:  # the check of the method reports it
        return False
    return any(f"{classifier_name(teacher)}.".startswith(f"{layer}.") for layer in layers)


def _override_without_logits(path: str, node: Node, method: Distiller) -> str:
    """The override with which the method at `path` reads only features."""
    without_kd: Distiller = build(dict(node) | {"alpha": None, "kd_weight": 0.0})
    if method.kd_weight and not without_kd.reads_logits and any(weight for weight, _ in without_kd.weighted()[1:]):
        return f"{path}.kd_weight=0" + (f" {path}.alpha=null" if node.get("alpha") is not None else "")
    return f"distillation@{path}=hint" if path != "distillation" else "distillation=hint"
