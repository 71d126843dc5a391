"""The learners and outputs that running processes need, which `kdexp-store prune` therefore keeps.

Each process has a file in the store's folder `in_use` that lists keys, next to a lock that it holds until it ends. A run
registers the keys it needs before it looks for them, and nothing is removed while a process registers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from kdexp.files import is_file, is_folder, remove_drafts, write_whole
from kdexp.store.locks import forget, hold, holder, take_turns
from kdexp.store.run_state import settle, was_killed
from kdexp.store.stored import LEARNERS, RESULT

IN_USE = "in_use"
NOTE = ".killed"
"""Suffix of the files that note the runs of a killed process."""


class Claim:
    """The keys that this process needs in the store at `root`, from `add` to `release`."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / IN_USE / f"{uuid4().hex}.json"
        self._keys: set[str] = set()
        self._learners: set[str] = set()
        self._runs: set[str] = set()
        self._until = ExitStack()
        self._held = False

    def add(self, keys: Iterable[str], run: Path | None = None, *, learners: bool = True) -> None:
        """Protects these keys of `learners` or of outputs; raises `OSError`.

        Records them and a run's folder in case this process is killed.
        """
        added, runs = set(keys), self._runs | ({str(run.resolve())} if run else set())
        if added <= self._keys and runs == self._runs:
            return
        keys, trained = self._keys | added, self._learners | (added if learners else set())
        with registering(self.root):
            if not self._held:
                settle_killed(self.root)
                hold(self.path.with_suffix(".lock"), self._until)
                self._held = True
            write_whole(self.path, json.dumps({"keys": sorted(keys), "learners": sorted(trained), "runs": sorted(runs)}))
        self._keys, self._learners, self._runs = keys, trained, runs

    def release(self) -> None:
        """Gives up all keys."""
        with suppress(OSError):
            self.path.unlink()
        self._until.close()
        self._keys, self._learners, self._runs, self._held = set(), set(), set(), False


@contextmanager
def registering(root: Path) -> Iterator[None]:
    """Keeps other processes from registering or removing anything inside the block; raises `OSError`."""
    with ExitStack() as until:
        (root / IN_USE).mkdir(parents=True, exist_ok=True)
        take_turns(root / IN_USE / "registry.lock", until)
        yield


def user_of(root: Path, key: str) -> str:
    """A running process that needs the key, such as `process 7 on laptop`; empty if none does."""
    return next((user for path, user in _claims(root) if user and key in _listed(path, "keys")), "")


def settle_killed(root: Path) -> None:
    """Removes the claims of killed processes, and marks their runs as killed; a note of these stays while they can resume."""
    for path, user in _claims(root):
        if not user:
            if killed := [folder for folder in _listed(path, "runs") if was_killed(Path(folder))]:
                note = {"runs": killed, "learners": _listed(path, "learners")}
                with suppress(OSError):
                    write_whole(path.with_suffix(NOTE), json.dumps(note))
            for folder in _listed(path, "runs"):
                settle(Path(folder))
            with suppress(OSError):
                path.unlink()
            forget(path.with_suffix(".lock"))
    for lock in (root / IN_USE).glob(f"{'?' * 32}.lock"):  # of processes that were killed before they wrote a claim
        if not lock.with_suffix(".json").exists() and not holder(lock):
            forget(lock)
    for note_file in (root / IN_USE).glob(f"*{NOTE}"):
        if not _resumable(root, note_file):
            with suppress(OSError):
                note_file.unlink()
    remove_drafts(root / IN_USE)


def killed_runs(root: Path) -> list[Path]:
    """The folders of killed runs and sweeps that the same command would resume; those inside a killed sweep are left out."""
    dead = [path for path, user in _claims(root) if not user]
    found = [folder for path in dead for folder in _resumable(root, path) if was_killed(folder)]
    found += [folder for path in sorted((root / IN_USE).glob(f"*{NOTE}")) for folder in _resumable(root, path)]
    return sorted({folder for folder in found if not {*folder.parents} & {*found}})


def forget_killed(root: Path) -> None:
    """Removes the notes of killed runs."""
    for path in (root / IN_USE).glob(f"*{NOTE}"):
        with suppress(OSError):
            path.unlink()


def _resumable(root: Path, path: Path) -> list[Path]:
    """The existing run folders that a claim or a note lists; none if all of its learners are stored."""
    if all(is_file(root / LEARNERS / key / RESULT) for key in _listed(path, "learners")):
        return []
    return [folder for folder in map(Path, _listed(path, "runs")) if is_folder(str(folder))]


def _claims(root: Path) -> Iterator[tuple[Path, str]]:
    """File and holder of every claim; the holder is empty for a killed process."""
    yield from ((path, holder(path.with_suffix(".lock"))) for path in sorted((root / IN_USE).glob("*.json")))


def _listed(path: Path, name: str) -> list[str]:
    """The values that a claim lists under a name; none if the file is damaged."""
    try:
        return list(map(str, json.loads(path.read_text("utf-8"))[name]))
    except (OSError, ValueError, TypeError, KeyError):
        return []
