"""The store: one folder per trained learner, named by the hash of its spec, written completely or not at all.

Next to the folders are `KEY.progress`, a complete epoch of a learner in training, and `KEY.lock`, held by the process
that trains it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from kdexp.errors import CorruptEntry, LearnerLost, Unwritable
from kdexp.files import DRAFT, at_home, draft_of, file_digest, is_file, reason, sync, write_whole
from kdexp.store.locks import acquire
from kdexp.store.schema import self_digest
from kdexp.store.stored import LEARNERS, RESULT, StoredLearner, read_entry, under_its_key

Say = Callable[[str], None]
DIGEST = 32
"""Bytes of the SHA-256 at the end of a progress file."""


class LearnerStore:
    """Finished and unfinished learners under `root/learner/`; `say` prints messages for the user."""

    def __init__(self, root: str | Path, say: Say = print):
        self.root = at_home(root) / LEARNERS
        self.say = say

    def find(self, key: str) -> StoredLearner | None:
        """The stored learner with all files verified, or None; a damaged one is reported and counts as missing."""
        if not self.has(key):
            return None
        try:
            found = under_its_key(read_entry(self.root / key))
            self.forget_progress(key)  # left by a process that was killed right after saving
            return found
        except CorruptEntry as error:
            self.say(f"store: {error}; it will be trained again")
            return None

    def require(self, key: str) -> StoredLearner:
        """The stored learner; raises `LearnerLost` if it has disappeared since it was found."""
        found = self.find(key)
        if found is None:
            raise LearnerLost(f"{self.root / key} was removed or damaged while this run needed it")
        return found

    def has(self, key: str) -> bool:
        """Whether a learner is stored; reads no files."""
        return is_file(self.root / key / RESULT)

    def require_writable(self) -> None:
        """Raises `Unwritable` if the store can't be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.root).close()
        except OSError as error:
            fix = "output_dir=FOLDER, in which it is by default, or store=FOLDER names another"
            raise Unwritable(f"store={str(self.root.parent)!r} can't be written: {reason(error)}; {fix}") from error

    @contextmanager
    def locked(self, names: Mapping[str, str]) -> Iterator[None]:
        """Holds the locks of these keys (with names for messages), waiting for processes that train them."""
        with ExitStack() as stack:
            for key, name in sorted(names.items()):
                acquire(self.root / f"{key}.lock", f"the {name} ({key})", stack, self.say)
                self._tidy(key)
            yield

    def _tidy(self, key: str) -> None:
        """Cleans up after a killed process: moves a complete draft into place, removes everything else."""
        for draft in sorted(self.root.glob(f"{key}*{DRAFT}*")):
            if draft.is_file():
                draft.unlink()
            elif (draft / RESULT).is_file() and not (self.root / key).exists():
                draft.rename(self.root / key)
            else:
                shutil.rmtree(draft)

    def save(
        self, key: str, result: dict[str, Any], tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]
    ) -> StoredLearner:
        """Writes a learner as a draft and moves it into place in one step; on `OSError` leaves nothing."""

        def write(folder: Path) -> None:
            for name, group in tensors.items():
                write_tensors(folder, name, group)
            (folder / "training.pt").write_bytes(_packed(state).getbuffer())

        stored = write_entry(self.root / key, result, write)
        self.forget_progress(key)
        return stored

    def keep_progress(self, key: str, state: dict[str, Any]) -> None:
        """Saves the state of a learner after an epoch, flushed to disk, in place of the previous one; raises `OSError`."""
        packed = _packed(state)
        packed.write(hashlib.sha256(packed.getbuffer()).digest())
        write_whole(self.root / f"{key}.progress", packed.getbuffer(), lasting=True)

    def progress(self, key: str) -> dict[str, Any] | None:
        """The last state that `keep_progress` saved, or None; a damaged one is reported and counts as missing."""
        path = self.root / f"{key}.progress"
        if not path.is_file():
            return None
        try:
            content = path.read_bytes()
        except OSError as error:
            self.say(f"store: {path} can't be read ({reason(error)}); its epochs will be trained again")
            return None
        packed, digest = memoryview(content)[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(packed).digest() != digest:
            self.say(f"store: {path} is damaged; its epochs will be trained again")
            return None
        return torch.load(io.BytesIO(packed), "cpu", weights_only=True)

    def forget_progress(self, key: str) -> None:
        """Removes the saved progress, if there is any and it can be removed."""
        with suppress(OSError):
            (self.root / f"{key}.progress").unlink()


def write_entry(place: Path, result: dict[str, Any], write: Callable[[Path], None]) -> StoredLearner:
    """Writes a folder as a draft, adds a result with the digests of its files, and moves it into place in one step.

    On `OSError` the previous content stays. Files are flushed to disk before the move, and the move before this returns: after
    a power failure, the place holds either the old or the new content, complete.
    """
    draft, outdated = draft_of(place), draft_of(place)
    try:
        draft.mkdir(parents=True)
        write(draft)
        complete = {**_finite(result), "files": {path.name: file_digest(path) for path in sorted(draft.iterdir())}}
        complete["digest"] = self_digest(complete)
        (draft / RESULT).write_text(json.dumps(complete, indent=1, allow_nan=False), "utf-8")
        for path in (*draft.iterdir(), draft):
            sync(path)
        if place.exists():
            place.rename(outdated)
        draft.rename(place)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if outdated.exists():
            outdated.rename(place)
        raise
    sync(place.parent)
    shutil.rmtree(outdated, ignore_errors=True)
    return StoredLearner(place, complete)


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that are not finite, such as the likelihood of logits that overflowed."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_tensors(folder: Path, name: str, group: Mapping[str, Tensor]) -> None:
    """Writes tensors as `name`.safetensors."""
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in group.items()}
    (folder / f"{name}.safetensors").write_bytes(safetensors_bytes(plain))


def _packed(state: dict[str, Any]) -> io.BytesIO:
    # Packed in memory, so that a full disk raises OSError when the bytes are written, not an error of torch.save.
    packed = io.BytesIO()
    torch.save(state, packed)
    return packed
