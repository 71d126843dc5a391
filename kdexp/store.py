"""The store: one folder per trained learner, named by the hash of its spec, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

RESULT = "result.json"
Say = Callable[[str], None]


class CorruptEntry(ValueError):
    """A stored learner whose files are not what its result says they are."""


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
        return load_file(self.path / f"{name}.safetensors")


class Store:
    """Finished learners under `root/learner/`; `say` is told what a user should know."""

    def __init__(self, root: str | Path, say: Say = print):
        self.root = Path(root).expanduser() / "learner"
        self.say = say

    def find(self, key: str) -> Stored | None:
        """The stored learner, verified file by file, or None; a damaged one is named and counts as absent."""
        if not (self.root / key / RESULT).is_file():
            return None
        try:
            return read_entry(self.root / key)
        except CorruptEntry as error:
            self.say(f"store: {error}; it is trained again")
            return None

    @contextmanager
    def locked(self, wanted: Mapping[str, str]) -> Iterator[None]:
        """Holds the locks of the wanted keys (key to a name for messages), waiting for processes that train them."""
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for key, name in sorted(wanted.items()):
                lock = FileLock(self.root / f"{key}.lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    self.say(f"waiting for another process that trains the {name} ({key})")
                    lock.acquire()
                stack.callback(lock.release)
            yield

    def save(self, key: str, result: dict[str, Any], tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]) -> Stored:
        """Writes a learner beside its place and then moves it there in one step."""
        draft = self.root / f"{key}.draft-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, group in tensors.items():
            save_file({n: t.detach().cpu().contiguous().clone() for n, t in group.items()}, draft / f"{name}.safetensors")
        torch.save(state, draft / "training.pt")
        complete = {**result, "files": {path.name: file_digest(path) for path in sorted(draft.iterdir())}}
        (draft / RESULT).write_text(json.dumps(complete, indent=1))
        self._replace(draft, self.root / key)
        return Stored(self.root / key, complete)

    def _replace(self, draft: Path, place: Path) -> None:
        outdated = place.with_name(f"{place.name}.outdated-{os.getpid()}")
        if place.exists():
            place.rename(outdated)
        draft.rename(place)
        shutil.rmtree(outdated, ignore_errors=True)


def read_entry(path: Path) -> Stored:
    """The learner in a folder of the store; raises `CorruptEntry` if any file is damaged or missing."""
    try:
        result = json.loads((path / RESULT).read_text())
        digests = result["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptEntry(f"{path / RESULT} can't be read ({error})") from error
    for name, digest in digests:
        if not is_plain_name(name):
            raise CorruptEntry(f"{path / RESULT} is refused: it names {name!r}, which is no file beside it")
        if not (path / name).is_file() or file_digest(path / name) != digest:
            raise CorruptEntry(f"{path / name} is missing or damaged")
    return Stored(path, result)


def is_plain_name(name: str) -> bool:
    """Whether it names a file in a folder, and no path that leads out of it, on any system."""
    return name not in ("", ".", "..") and PureWindowsPath(name).name == name


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
