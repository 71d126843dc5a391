"""Checks of one node: its class can be imported, its arguments are right one by one and together."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kdexp.configuration.arguments import misfit, parameters, problems, short_repr
from kdexp.configuration.nodes import arguments, build, target
from kdexp.configuration.shipped import conf_dir
from kdexp.data.dataset import ImageDataset
from kdexp.data.randaugment.policy import RandAugment
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller
from kdexp.errors import Problem, did_you_mean, first_cause, first_line, listed, refusals
from kdexp.files import is_file, is_folder
from kdexp.network.build import starts_trained
from kdexp.network.headless import HEADS, head_of
from kdexp.pretraining.base import Pretraining
from kdexp.store.stored import RESULT
from kdexp.training.averaging import Averaging

GIVE_START = "give student.checkpoint=FILE, or student.weights where the network has published ones"

NETWORKS = ("teacher", "student")

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
    "averaging",
)
"""Nodes that every configuration has."""

UNTAUGHT = {"baseline": "the baseline", "label_smoothing": "'controls=[label_smoothing]'"}
"""Nodes of methods that train rows without a teacher, and what those rows are called."""

BASES: dict[str, type] = {
    "dataset": ImageDataset,
    "strong": RandAugment,
    "strong_view": RandAugment,
    "distillation": Distiller,
    "baseline": Distiller,
    "label_smoothing": Distiller,
    "optimizer": object,
    "teacher_optimizer": object,
    "schedule": object,
    "teacher_schedule": object,
    "averaging": Averaging,
    "pretraining": Pretraining,
}
"""The base class of a node's class, by the last part of the node's path; functions are refused there."""

GROUPS = {
    "dataset.strong": "strong@",
    "dataset.strong_view": "strong@",
    "teacher_optimizer": "optimizer@",
    "teacher_schedule": "schedule@",
    "baseline": "distillation@",
    "label_smoothing": "distillation@",
    "pretraining.optimizer": "optimizer@",
    "pretraining.schedule": "schedule@",
}
"""What precedes `NODE=OPTION` on the command line where a node is not named like its group."""


def check_node(path: str, node: Any, is_network: bool) -> Iterator[Problem]:
    """Problems of the node at a path; names of problems start with the path."""
    if isinstance(node, str) and is_network and path not in NETWORKS:
        known = sorted(file.stem for file in Path(conf_dir(), "model").glob("*.yaml"))
        yield Problem(path, f"={node!r}: no such network;{did_you_mean(node, known)} known: {listed(known)}")
        return
    if not isinstance(node, dict):
        group = GROUPS.get(path, "")
        yield Problem(path, "missing" if node is None else f"={node!r}: is a group, chosen with {group}{path}=OPTION")
        return
    if odd := [key for key in node if not isinstance(key, str)]:
        yield Problem(path, f"has the key {odd[0]!r}, and keys must be texts")
        return
    made, sentence = _target(path, node)
    if sentence:
        yield Problem(f"{path}._target_", sentence)
        return
    given = arguments(node)
    if is_network:
        yield from _starts(path, node, given)
    given_later = list(asdict(Shape(0, 0, 0))) if is_network else []
    found = [problem.under(path) for problem in problems(made, given, given_later=given_later)]
    if not found and not is_network:
        found += _constructor(path, node)
    yield from found or _needs_teacher(path, node)


def _import_problem(name: str, cause: BaseException) -> str:
    """Why a class can't be imported; where only the class is misspelt, the one that was probably meant."""
    home, _, last = name.rpartition(".")
    if home in sys.modules and not hasattr(sys.modules[home], last):
        known = [found for found, value in vars(sys.modules[home]).items() if isinstance(value, type)]
        return f"module {home} has no {last};{did_you_mean(last, known)} classes there: {listed(known)}"
    where = ""
    if isinstance(cause, ModuleNotFoundError) and cause.name == name.partition(".")[0]:
        where = "; Python looks next to the folder that --config-dir names and in PYTHONPATH"
    return f"can't be imported ({type(cause).__name__}: {first_line(cause)}){where}"


def _target(path: str, node: dict[str, Any]) -> tuple[Any, str]:
    """The class or function that a node's `_target_` names, and why it can't be used (empty if it can)."""
    if "_target_" not in node:
        return None, "missing: the MODULE.CLASS that is made"
    name = node["_target_"]
    if not isinstance(name, str):
        return None, f"={name!r}: must be a text, MODULE.CLASS"
    try:
        made = target(node)
    except (Exception, SystemExit) as error:  # importing a user's module may raise anything
        return None, f"={name!r}: {_import_problem(name, first_cause(error))}"
    kind = "a module" if isinstance(made, ModuleType) else f"a value of type {type(made).__name__}"
    if not callable(made):
        return None, f"={name!r}: is {kind}; name a class or a function in it: MODULE.CLASS"
    base = BASES.get(path.rpartition(".")[2])
    if base is not None and not (isinstance(made, type) and issubclass(made, base)):
        derived = "" if base is object else f" derived from {base.__module__}.{base.__qualname__}"
        return None, f"={name!r}: must be a class{derived}"
    if isinstance(made, type) and path.partition(".")[0] in NETWORKS and not issubclass(made, nn.Module):
        return None, f"={name!r}: must be a torch.nn.Module, or a function that returns one"
    try:
        parameters(made)
    except (TypeError, ValueError, NameError) as error:  # built-in functions, annotations that can't be resolved
        return None, f"={name!r}: its arguments can't be read ({first_line(error)})"
    return made, ""


def is_method(node: dict[str, Any]) -> bool:
    """Whether a node names a distillation method."""
    try:
        made = target(node)
    except Exception:  # importing a user's module may raise anything
        return False
    return isinstance(made, type) and issubclass(made, Distiller)


def _constructor(path: str, node: dict[str, Any]) -> Iterator[Problem]:
    """Problems that only the constructor finds, such as arguments that exclude each other."""
    try:
        build(node)
    except Exception as error:
        yield from (problem.under(path) for problem in refusals(error))


def _needs_teacher(path: str, node: dict[str, Any]) -> Iterator[Problem]:
    """Refuses a method that learns from a teacher where there is none."""
    if path in UNTAUGHT and build(node).uses_teacher:
        option = path if path == "label_smoothing" else "none"
        yield Problem(path, f"learns from a teacher, and {UNTAUGHT[path]} has none; choose distillation@{path}={option}")


def _starts(path: str, node: dict[str, Any], given: dict[str, Any]) -> Iterator[Problem]:
    """Problems of a network's keys that its class does not see, which are taken out of `given`."""
    if given.pop("checkpoint", None) is not None:
        yield from _checkpoint_file(path, node["checkpoint"])
    for name, kind in (("checkpoint_prefix", str), ("checkpoint_fresh", list[str])):
        yield from _part_of_checkpoint(f"{path}.{name}", given.pop(name, None), kind, node)
    if path == "student":
        yield from _frozen(given.pop("frozen_backbone", False), node)
    else:
        yield from _head(path, given, node)
        yield from _teacher_or_method_missing(path, given.pop("teacher", None), given.pop("distillation", None))


def _checkpoint_file(path: str, checkpoint: Any) -> Iterator[Problem]:
    if isinstance(checkpoint, str) and is_file(checkpoint):
        return
    name, written = f"{path}.checkpoint", short_repr(checkpoint)
    if not (isinstance(checkpoint, str) and is_folder(checkpoint)):
        yield Problem(name, f"={written}: no such file")
        return
    is_run = (Path(checkpoint) / "table.json").is_file()
    role = " --role teacher" if path != "student" and is_run else ""
    has_network = is_run or (Path(checkpoint) / RESULT).is_file()
    fix = f"; kdexp-export {shlex.quote(checkpoint)} --format safetensors{role} writes one" if has_network else ""
    yield Problem(name, f"={written}: is a folder, and a checkpoint is a file{fix}")


def _part_of_checkpoint(name: str, value: Any, kind: Any, node: dict[str, Any]) -> Iterator[Problem]:
    """Problems of a key that says what is taken of a checkpoint."""
    if value is None or value == []:
        return
    if sentence := misfit(value, kind):
        yield Problem(name, f"={short_repr(value)}: {sentence}")
    elif not str(value).strip("."):
        yield Problem(name, f"={short_repr(value)}: must be the beginning of names, such as module.encoder_q.")
    elif not node.get("checkpoint"):
        yield Problem(
            name, f"={short_repr(value)}: says what is taken of a file of weights; add {name.rpartition('_')[0]}=FILE"
        )


def _head(path: str, given: dict[str, Any], node: dict[str, Any]) -> Iterator[Problem]:
    """Problems of the head of a teacher, which is taken out of `given` unless it is an argument of the class."""
    head = head_of(node)
    if "head" not in given or (given["head"] is not None and not head and "head" in parameters(target(node))):
        return
    given.pop("head")
    name = f"{path}.head"
    if node["head"] is not None and not head:
        yield Problem(name, f"={short_repr(node['head'])}: must be one of {listed(HEADS)} (or null)")
    elif head and not starts_trained(node):
        weights = f", or {path}.weights where the network has published ones" if "weights" in node else ""
        yield Problem(name, f"={head!r}: the backbone would stay untrained; give {path}.checkpoint=FILE{weights}")
    elif head == "none" and ".members." in f"{path}.":
        yield Problem(name, "='none': an ensemble needs its members' logits; head=probe trains a classifier")


def _teacher_or_method_missing(path: str, teacher: Any, distillation: Any) -> Iterator[Problem]:
    if teacher is not None and distillation is None:
        yield Problem(
            f"{path}.distillation", f"missing: the method that {path} learns by; add +distillation@{path}.distillation=kd"
        )
    if distillation is not None and teacher is None:
        yield Problem(
            f"{path}.teacher", f"missing: the network that {path}.distillation learns from; add +teacher@{path}.teacher=NETWORK"
        )


def _frozen(frozen: Any, node: dict[str, Any]) -> Iterator[Problem]:
    if not isinstance(frozen, bool):
        yield Problem("student.frozen_backbone", f"={frozen!r}: must be true or false")
    elif frozen and not starts_trained(node):
        yield Problem("student.frozen_backbone", f"=True: the backbone would stay untrained; {GIVE_START}")
