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
from typing import Any, Literal

from kdexp.files import file_digest

FORMAT = 3
"""Raise it when the train loop or the files of the store change, so that older results are not taken for current ones."""

LIBRARIES = ("torch", "torchvision", "builtins", "abc", "typing", "enum")
EXEMPT = ("kdexp.configuration", "kdexp.errors", "kdexp.text", "kdexp.files", "kdexp.version")
"""Rooms that decide no weights: their source is not hashed, so that rewording an error message trains nothing again."""

OPTIONAL = ("quantised", "class_weights", "averaging", "strong_view", "unlabelled", "start")
"""Fields of a spec that only some learners have."""


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that a learner's weights depend on, as plain values. Where it runs (paths, device, threads) is left out."""

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
    """The teacher's key."""
    members: list[str] = field(default_factory=list)
    """The keys of an ensemble's members."""
    quantised: dict[str, Any] | None = None
    """The node that quantises the teacher's network, if this is what the learner is."""
    class_weights: Literal["balanced"] | list[float] | None = None
    """Weights of the classes in the loss on labels."""
    averaging: dict[str, Any] | None = None
    """The node of the moving average of its weights, if there is one."""
    strong_view: dict[str, Any] | None = None
    """The node of RandAugment that makes strong views, if it reads some."""
    unlabelled: str | None = None
    """The fingerprint of the images of a folder without classes, if it reads some."""
    start: str | None = None
    """The key of the pretrained learner that it starts from."""

    @property
    def depends_on(self) -> list[str]:
        """The keys of the learners that it is taught by, made of, or starts from."""
        return [*self.members, *filter(None, (self.teacher, self.start))]

    def values(self) -> dict[str, Any]:
        """The spec as plain values; what only some learners have is left out of others."""
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value}

    def identity(self) -> dict[str, Any]:
        """The values that are hashed: the spec, the format, and a digest of each source file behind its classes.

        Source files are those of every `_target_`, of its base classes, and of modules next to these that they import.
        """
        values = self.values()
        return {"format": FORMAT, **values, "sources": sources_in(values)}

    @cached_property
    def key(self) -> str:
        """The hash, 16 hexadecimal digits."""
        return key_of(self.identity())


def key_of(identity: dict[str, Any]) -> str:
    """Hash of a spec's `identity()`."""
    text = json.dumps(alike(identity), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sources_in(values: Any) -> dict[str, str]:
    """Digests of the source files behind the classes of all nodes in plain values, by module."""
    return {name: digest for node in _nodes(values) for name, digest in _sources(node["_target_"])}


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
    from hydra.utils import get_object  # reports hash no sources and start faster without Hydra

    yield from ((name, file_digest(path)) for name, path in _files(get_object(target)))


@cache
def _files(target: Any) -> tuple[tuple[str, Path], ...]:
    """Names and files of the modules that define a class (or function), its base classes, and what they import nearby."""
    found: dict[str, Path] = {}
    for owner in inspect.getmro(target) if inspect.isclass(target) else [target]:
        module = inspect.getmodule(owner)
        if module is not None and _decides_weights(module.__name__):
            found |= _with_imports(module, found)
    return tuple(found.items())


def _decides_weights(module: str) -> bool:
    return module.partition(".")[0] not in LIBRARIES and not f"{module}.".startswith(tuple(f"{room}." for room in EXEMPT))


def _with_imports(module: ModuleType, found: Mapping[str, Path]) -> dict[str, Path]:
    """`found`, plus a module's file and, recursively, those of the modules in its folder that it imports."""
    file = Path(inspect.getsourcefile(module) or "")
    found = {**found, module.__name__: file}
    for name in _imported(ast.parse(file.read_bytes()), module.__package__ or ""):
        imported = sys.modules.get(name)
        same_folder = Path(getattr(imported, "__file__", None) or "").parent == file.parent
        if imported is not None and name not in found and same_folder:
            found |= _with_imports(imported, found)
    return found


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Names in a module's import statements that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))
