"""What decides a learner's weights, and the hash under which the store keeps them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hydra.utils import get_object

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
        """What is hashed: the spec, the format, and the source of every module that a `_target_` names."""
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
    yield from ((name, file_digest(path)) for name, path in _files(get_object(target)))


@cache
def _files(named: Any) -> tuple[tuple[str, Path], ...]:
    """The modules, and their files, that define an object and what it inherits from."""
    found = []
    for owner in inspect.getmro(named) if inspect.isclass(named) else [named]:
        module = inspect.getmodule(owner)
        if module is not None and module.__name__.partition(".")[0] not in LIBRARIES:
            found.append((module.__name__, Path(inspect.getsourcefile(module) or "")))
    return tuple(found)
