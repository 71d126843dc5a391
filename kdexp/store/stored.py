"""A finished learner, or a teacher's outputs, in the store, verified before use. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.errors import BadFile, CorruptEntry, first_line
from kdexp.files import file_digest
from kdexp.store.descriptions import LearnerFile
from kdexp.store.schema import parse_json, problems_of, read_text, require
from kdexp.store.spec import FORMAT, key_of

if TYPE_CHECKING:
    from torch import Tensor

RESULT = "result.json"
QUANTISED = "int8.onnx"
"""The network of a learner that was quantised."""

LEARNERS, OUTPUTS, SUMMARIES = "learner", "outputs", "summaries"
"""Folders of a store."""


@dataclass(frozen=True)
class StoredLearner:
    """A finished learner in the store."""

    path: Path
    result: dict[str, Any]

    @property
    def key(self) -> str:
        """The hash of its spec."""
        return self.path.name

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of a file: `last`, `best` (if there were validation images) or `logits`; raises `CorruptEntry`."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CorruptEntry(f"{path} can't be read: {first_line(error)}") from error


def read_result(path: Path, kind: Any = LearnerFile) -> StoredLearner:
    """Reads and checks `result.json` of a stored folder, but none of its other files; raises `CorruptEntry`."""
    source = path / RESULT
    try:
        result = parse_json(read_text(source), source)
        if kind is LearnerFile and (other := other_format(result)) and problems_of(result, kind):
            raise CorruptEntry(f"{source} {other}")
        require(result, kind, source)
    except CorruptEntry:
        raise
    except BadFile as error:
        raise CorruptEntry(str(error)) from error
    return StoredLearner(path, result)


def other_format(result: Any) -> str:
    """Message that a learner's result has another format than the current one; empty if it has not, or none is given."""
    spec = result.get("spec") if isinstance(result, dict) else None
    found = spec.get("format") if isinstance(spec, dict) else None
    return (
        f"has the format {found}, and this version of kdexp reads {FORMAT}"
        if isinstance(found, int) and found != FORMAT
        else ""
    )


def read_entry(path: Path, kind: Any = LearnerFile) -> StoredLearner:
    """Reads a stored folder; raises `CorruptEntry` if any of its files is damaged or missing."""
    found = read_result(path, kind)
    for name, digest in found.result["files"].items():
        if not is_file_of(path / name, digest):
            raise CorruptEntry(f"{path / name} is missing or damaged")
    return found


def is_file_of(path: Path, digest: str) -> bool:
    """Whether the file exists and has that digest."""
    try:
        return path.is_file() and file_digest(path) == digest
    except OSError:
        return False


def under_its_key(found: StoredLearner) -> StoredLearner:
    """Returns `found` if its folder is named by its own key; raises `CorruptEntry`."""
    if key_of(found.result["spec"]) != found.path.name:
        raise CorruptEntry(f"{found.path} has a name that is not its key")
    return found
