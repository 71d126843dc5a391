"""What decides a learner's weights, and the hash under which the store keeps them."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from kdexp.files import file_digest

FORMAT = 2
"""Raised when the train loop or the files of the store change, so that older results are not taken for today's."""

LIBRARIES = ("torch", "torchvision", "builtins", "abc", "typing", "enum")


@dataclass(frozen=True)
class LearnerSpec:
    """Everything a learner's weights depend on, as plain values; what only says where it ran is left out."""

    data: dict[str, Any]
    model: dict[str, Any]
    method: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    epochs: int
    batch_size: int
    seed: int
    precision: str
    limit_batches: int | None
    teacher: str | None
    """The key of the teacher's own spec."""
    members: list[str] = field(default_factory=list)
    """The keys of the learners that an ensemble is made of."""

    def identity(self) -> dict[str, Any]:
        """What is hashed: the spec, the format, and the source of every module that a `_target_` names, bases and neighbours
        included.
        """
        sources = {name: digest for node in _nodes(asdict(self)) for name, digest in _sources(node["_target_"])}
        return {"format": FORMAT, **asdict(self), "sources": sources}

    @cached_property
    def key(self) -> str:
        """The hash, 16 hexadecimal digits."""
        return key_of(self.identity())


def key_of(identity: dict[str, Any]) -> str:
    """The hash of what `LearnerSpec.identity` gave."""
    written = json.dumps(alike(identity), sort_keys=True, allow_nan=False)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def alike(value: Any) -> Any:
    """The value with every number as a float: temperature=4 and 4.0 are one learner."""
    if isinstance(value, dict):
        return {name: alike(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [alike(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)


def _sources(target: str) -> Iterator[tuple[str, str]]:
    from hydra.utils import get_object  # reports, which hash nothing, start faster without Hydra

    yield from ((name, file_digest(path)) for name, path in _files(get_object(target)))


@cache
def _files(named: Any) -> tuple[tuple[str, Path], ...]:
    """The modules, and their files, that define an object and what it inherits from, and what these import from beside them."""
    found: dict[str, Path] = {}
    for owner in inspect.getmro(named) if inspect.isclass(named) else [named]:
        module = inspect.getmodule(owner)
        if module is not None and module.__name__.partition(".")[0] not in LIBRARIES:
            found |= _with_imports(module, found)
    return tuple(found.items())


def _with_imports(module: ModuleType, known: Mapping[str, Path]) -> dict[str, Path]:
    """A module's file, and those of the modules in its folder that it imports, as far as they are not known."""
    file = Path(inspect.getsourcefile(module) or "")
    found = {**known, module.__name__: file}
    for name in _imported(ast.parse(file.read_bytes()), module.__package__ or ""):
        beside = sys.modules.get(name)
        if beside is not None and name not in found and Path(getattr(beside, "__file__", None) or "").parent == file.parent:
            found |= _with_imports(beside, found)
    return found


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The names that a module's import statements may mean modules by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))
