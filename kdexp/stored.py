"""One finished learner as it lies in the store, verified before it is believed. Reading about it needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from kdexp.files import file_digest

if TYPE_CHECKING:
    from torch import Tensor

RESULT = "result.json"

LEARNERS, OUTPUTS, SUMMARIES = "learner", "outputs", "summaries"
"""The folders of a store."""


class CorruptEntry(ValueError):
    """A stored learner whose files are not what its result says they are."""


class LearnerLost(OSError):
    """A learner that somebody took out of the store while a run needed it; the same command trains it again."""


@dataclass(frozen=True)
class Stored:
    """A finished learner in the store."""

    path: Path
    result: dict[str, Any]

    @property
    def key(self) -> str:
        """The hash of its spec."""
        return self.path.name

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files: `last`, `best` (if there was validation data) or `logits`."""
        from safetensors.torch import load_file

        return load_file(self.path / f"{name}.safetensors")


def read_entry(path: Path) -> Stored:
    """The learner in a folder of the store; raises `CorruptEntry` if any file is damaged or missing."""
    try:
        result = json.loads((path / RESULT).read_text())
        whole = result["digest"] == self_digest(result)
        digests = result["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptEntry(f"{path / RESULT} can't be read ({error})") from error
    if not whole:
        raise CorruptEntry(f"{path / RESULT} was changed after it was written")
    for name, digest in digests:
        if not is_plain_name(name):
            raise CorruptEntry(f"{path / RESULT} is refused: it names {name!r}, which is no file beside it")
        if not (path / name).is_file() or file_digest(path / name) != digest:
            raise CorruptEntry(f"{path / name} is missing or damaged")
    return Stored(path, result)


def is_plain_name(name: str) -> bool:
    """Whether it names a file in a folder, and no path that leads out of it, on any system."""
    return name not in ("", ".", "..") and PureWindowsPath(name).name == name


def self_digest(result: Mapping[str, Any]) -> str:
    """The SHA-256 of a result but for the entry that holds it."""
    told = {name: value for name, value in result.items() if name != "digest"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
