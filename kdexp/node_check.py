"""What can be wrong with one node: it can't be imported, its arguments are wrong one by one or together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdexp.arguments import Problem, did_you_mean, first_cause, first_line, listed, problems, refusals, shown
from kdexp.config import arguments, build, conf_dir, target
from kdexp.distillation.base import Distiller
from kdexp.files import is_file
from kdexp.network import Shape, starts_trained
from kdexp.stored import RESULT

GIVE_START = "give student.checkpoint=FILE, or student.weights where the network has published ones"

NETWORKS = ("teacher", "student")

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
    if isinstance(path, str) and Path(path).is_dir():
        trained = any((Path(path) / file).is_file() for file in ("table.json", RESULT))
        role = " --role teacher" if name != "student" and (Path(path) / "table.json").is_file() else ""
        way_out = f"; kdexp-export {path} --format safetensors{role} writes one" if trained else ""
        yield Problem(f"{name}.checkpoint", f"={path!r}: is a folder, and a checkpoint is a file{way_out}")
    elif not isinstance(path, str) or not is_file(path):
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
