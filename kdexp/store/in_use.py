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

from kdexp.files import remove_drafts, write_whole
from kdexp.store.locks import hold, holder, take_turns
from kdexp.store.run_state import settle

IN_USE = "in_use"


class Claim:
    """The keys that this process needs in the store at `root`, from `add` to `release`."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / IN_USE / f"{uuid4().hex}.json"
        self._keys: set[str] = set()
        self._runs: set[str] = set()
        self._until = ExitStack()
        self._held = False

    def add(self, keys: Iterable[str], run: Path | None = None) -> None:
        """Protects these keys, and records a run's folder in case this process is killed; raises `OSError`."""
        keys, runs = self._keys.union(keys), self._runs | ({str(run.resolve())} if run else set())
        if (keys, runs) == (self._keys, self._runs):
            return
        with registering(self.root):
            if not self._held:
                settle_killed(self.root)
                hold(self.path.with_suffix(".lock"), self._until)
                self._held = True
            write_whole(self.path, json.dumps({"keys": sorted(keys), "runs": sorted(runs)}))
        self._keys, self._runs = keys, runs

    def release(self) -> None:
        """Gives up all keys."""
        with suppress(OSError):
            self.path.unlink()
        self._until.close()
        self._keys, self._runs, self._held = set(), set(), False


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
    """Removes the claims of killed processes, and marks their runs as killed."""
    for path, user in _claims(root):
        if not user:
            for folder in _listed(path, "runs"):
                settle(Path(folder))
            for file in (path, path.with_suffix(".lock")):
                with suppress(OSError):
                    file.unlink()
    remove_drafts(root / IN_USE)


def _claims(root: Path) -> Iterator[tuple[Path, str]]:
    """File and holder of every claim; the holder is empty for a killed process."""
    yield from ((path, holder(path.with_suffix(".lock"))) for path in sorted((root / IN_USE).glob("*.json")))


def _listed(path: Path, name: str) -> list[str]:
    """The values that a claim lists under a name; none if the file is damaged."""
    try:
        return list(map(str, json.loads(path.read_text("utf-8"))[name]))
    except (OSError, ValueError, TypeError, KeyError):
        return []
