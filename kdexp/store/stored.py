"""One finished learner, or a teacher's outputs, as they lie in the store, verified before they are used. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.errors import BadFile, CorruptEntry, first_line
from kdexp.files import file_digest
from kdexp.store.descriptions import Learner
from kdexp.store.schema import parse_json, problems_of, read_text, require
from kdexp.store.spec import FORMAT, key_of

if TYPE_CHECKING:
    from torch import Tensor

RESULT = "result.json"

LEARNERS, OUTPUTS, SUMMARIES = "learner", "outputs", "summaries"
"""The folders of a store."""


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
        """The tensors of one of its files: `last`, `best` (if there was validation data) or `logits`; raises `CorruptEntry`."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CorruptEntry(f"{path} can't be read: {first_line(error)}") from error


def read_result(path: Path, kind: Any = Learner) -> StoredLearner:
    """What the result in a stored folder says, which is undamaged and of that kind; the other files are not read.

    Raises `CorruptEntry`.
    """
    source = path / RESULT
    try:
        result = parse_json(read_text(source), source)
        if kind is Learner and (other := other_format(result)) and problems_of(result, kind):
            raise CorruptEntry(f"{source} {other}")
        require(result, kind, source)
    except CorruptEntry:
        raise
    except BadFile as error:
        raise CorruptEntry(str(error)) from error
    return StoredLearner(path, result)


def other_format(result: Any) -> str:
    """That a learner's result is of another version's format, in words; empty if it is of today's, or says nothing of it."""
    spec = result.get("spec") if isinstance(result, dict) else None
    found = spec.get("format") if isinstance(spec, dict) else None
    return f"is of format {found}, not {FORMAT}" if isinstance(found, int) and found != FORMAT else ""


def read_entry(path: Path, kind: Any = Learner) -> StoredLearner:
    """What is stored in a folder; raises `CorruptEntry` if any of its files is damaged or missing."""
    found = read_result(path, kind)
    for name, digest in found.result["files"].items():
        if not is_file_of(path / name, digest):
            raise CorruptEntry(f"{path / name} is missing or damaged")
    return found


def is_file_of(path: Path, digest: str) -> bool:
    """Whether the file is there and of that digest."""
    try:
        return path.is_file() and file_digest(path) == digest
    except OSError:
        return False


def under_its_key(found: StoredLearner) -> StoredLearner:
    """The same, if the key that its folder is named by is its own; raises `CorruptEntry`."""
    if key_of(found.result["spec"]) != found.path.name:
        raise CorruptEntry(f"{found.path} holds something else than its name says")
    return found
