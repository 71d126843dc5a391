"""What can be wrong with one node: it can't be imported, its arguments are wrong one by one or together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from kdexp.configuration.arguments import parameters, problems, shown
from kdexp.configuration.compose import conf_dir
from kdexp.configuration.nodes import arguments, build, target
from kdexp.data.dataset import ImageDataset
from kdexp.data.shape import Shape
from kdexp.distillation.base import Distiller
from kdexp.errors import Problem, did_you_mean, first_cause, first_line, listed, refusals
from kdexp.files import is_file, is_folder
from kdexp.network.build import starts_trained
from kdexp.store.stored import RESULT

GIVE_START = "give student.checkpoint=FILE, or student.weights where the network has published ones"

NETWORKS = ("teacher", "student")

BASES: dict[str, type] = {
    "dataset": ImageDataset,
    "distillation": Distiller,
    "baseline": Distiller,
    "label_smoothing": Distiller,
    "optimizer": object,
    "teacher_optimizer": object,
    "schedule": object,
    "teacher_schedule": object,
}
"""What the class of a node must be derived from, by the last part of the node's path; functions are refused there."""

GROUPS = {
    "teacher_optimizer": "optimizer@",
    "teacher_schedule": "schedule@",
    "baseline": "distillation@",
    "label_smoothing": "distillation@",
}
"""How the option of a node is chosen that is not named like its group."""


def check_node(name: str, node: Any, is_network: bool) -> Iterator[Problem]:
    """Problems of one `_target_` node, its path in front of their names."""
    if isinstance(node, str) and is_network and name not in NETWORKS:
        known = sorted(file.stem for file in Path(conf_dir(), "model").glob("*.yaml"))
        yield Problem(name, f"={node!r}: no such network;{did_you_mean(node, known)} known: {listed(known)}")
        return
    if not isinstance(node, dict):
        group = GROUPS.get(name, "")
        what = "missing" if node is None else f"={node!r}: is a group, chosen with {group}{name}=OPTION"
        yield Problem(name, what)
        return
    if odd := [key for key in node if not isinstance(key, str)]:
        yield Problem(name, f"has the key {odd[0]!r}, and keys must be texts")
        return
    made, what = _target(name, node)
    if what:
        yield Problem(f"{name}._target_", what)
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


def _target(name: str, node: dict[str, Any]) -> tuple[Any, str]:
    """What a node's `_target_` names, and why it can't be made (empty if nothing is known against it)."""
    if "_target_" not in node:
        return None, "missing: the MODULE.CLASS that is made"
    given = node["_target_"]
    if not isinstance(given, str):
        return None, f"={given!r}: must be a text, MODULE.CLASS"
    try:
        made = target(node)
    except (Exception, SystemExit) as error:  # importing a user's module may raise anything
        cause = first_cause(error)
        return None, f"={given!r}: can't be imported ({type(cause).__name__}: {first_line(cause)})"
    kind = "a module" if isinstance(made, ModuleType) else f"a value of type {type(made).__name__}"
    if not callable(made):
        return None, f"={given!r}: is {kind}; name a class or a function in it: MODULE.CLASS"
    base = next((base for part, base in BASES.items() if name.rpartition(".")[2] == part), None)
    if base is not None and not (isinstance(made, type) and issubclass(made, base)):
        derived = "" if base is object else f" derived from {base.__module__}.{base.__qualname__}"
        return None, f"={given!r}: must be a class{derived}"
    if isinstance(made, type) and name.partition(".")[0] in NETWORKS and not issubclass(made, nn.Module):
        return None, f"={given!r}: must be a torch.nn.Module, or a function that returns one"
    try:
        parameters(made)
    except (TypeError, ValueError, NameError) as error:  # built-in functions, annotations that can't be resolved
        return None, f"={given!r}: its arguments can't be read ({first_line(error)})"
    return made, ""


def is_method(node: dict[str, Any]) -> bool:
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
    if isinstance(path, str) and is_file(path):
        return
    if isinstance(path, str) and is_folder(path):
        trained = any((Path(path) / file).is_file() for file in ("table.json", RESULT))
        role = " --role teacher" if name != "student" and (Path(path) / "table.json").is_file() else ""
        way_out = f"; kdexp-export {path} --format safetensors{role} writes one" if trained else ""
        yield Problem(f"{name}.checkpoint", f"={shown(path)}: is a folder, and a checkpoint is a file{way_out}")
    else:
        yield Problem(f"{name}.checkpoint", f"={shown(path)}: no such file")


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
