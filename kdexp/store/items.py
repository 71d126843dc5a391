"""Everything in a store, item by item: learners, progress, teachers' outputs, leftovers. Does not import torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import Any

from kdexp.errors import CorruptEntry
from kdexp.files import DRAFT
from kdexp.store.descriptions import LearnerFile, OutputsFile
from kdexp.store.stored import LEARNERS, OUTPUTS, SUMMARIES, read_entry, read_result, under_its_key


@dataclass
class Item:
    """A learner, the progress of an unfinished one, a teacher's outputs, or a leftover of a killed process."""

    path: Path
    kind: str
    """`finished`, `unfinished`, `outputs`, `leftover` or `damaged`."""
    result: dict[str, Any]
    damage: str = ""

    @property
    def key(self) -> str:
        """The hash under which it is stored."""
        return self.path.name.partition(".")[0]

    @cached_property
    def size(self) -> int:
        """Bytes on disk; 0 if the item was removed meanwhile."""
        files = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return sum(state.st_size for state in map(_state, files) if state and S_ISREG(state.st_mode))

    @cached_property
    def days(self) -> float:
        """Days since it was last written; 0 if the item was removed meanwhile."""
        state = _state(self.path)
        return (time.time() - state.st_mtime) / 86_400 if state else 0.0


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def items(root: Path, *, verified: bool = False) -> list[Item]:
    """All items of a store, newest first; `verified` reads every file. Items that are removed meanwhile are left out."""
    found = [item for item in _items(root, verified) if _state(item.path)]
    return sorted(found, key=lambda item: item.days)


def _items(root: Path, verified: bool) -> Iterator[Item]:
    for folder in (LEARNERS, OUTPUTS, SUMMARIES):
        for path in (root / folder).iterdir() if (root / folder).is_dir() else ():
            if DRAFT in path.name:
                yield Item(path, "leftover", {})
            elif path.suffix == ".progress":
                yield Item(path, "unfinished", {})
            elif path.is_dir():
                yield _read(path, verified)


def _read(path: Path, verified: bool) -> Item:
    kind, declared = ("outputs", OutputsFile) if path.parent.name == OUTPUTS else ("finished", LearnerFile)
    try:
        found = read_entry(path, declared) if verified else read_result(path, declared)
        return Item(path, kind, under_its_key(found).result)
    except CorruptEntry as error:
        return Item(path, "damaged", {}, str(error))
