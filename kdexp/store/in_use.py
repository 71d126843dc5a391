"""What running processes need of a store, so that `kdexp-store prune` leaves it alone.

Each process has a file in the store's folder `in_use`, which lists keys, next to a lock that it holds while it lives. A run
registers what it needs before it looks for it, and nothing is removed while somebody registers.
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
    """What this process needs of the store at `root`, from `add` to `release`."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / IN_USE / f"{uuid4().hex}.json"
        self._keys: set[str] = set()
        self._runs: set[str] = set()
        self._until = ExitStack()
        self._held = False

    def add(self, keys: Iterable[str], run: Path | None = None) -> None:
        """Keeps these keys, and names the folder of a run, to be settled should this process be killed; raises `OSError`."""
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
        """Needs nothing of it any more."""
        with suppress(OSError):
            self.path.unlink()
        self._until.close()
        self._keys, self._runs, self._held = set(), set(), False


@contextmanager
def registering(root: Path) -> Iterator[None]:
    """Inside, no other process registers or removes anything; raises `OSError`."""
    with ExitStack() as until:
        (root / IN_USE).mkdir(parents=True, exist_ok=True)
        take_turns(root / IN_USE / "registry.lock", until)
        yield


def user_of(root: Path, key: str) -> str:
    """A living process that needs the key, such as `process 7 on laptop`; empty if none does."""
    return next((user for path, user in _claims(root) if user and key in _listed(path, "keys")), "")


def settle_killed(root: Path) -> None:
    """Removes what killed processes claimed, and has the folders of their runs say that they were killed."""
    for path, user in _claims(root):
        if not user:
            for folder in _listed(path, "runs"):
                settle(Path(folder))
            for file in (path, path.with_suffix(".lock")):
                with suppress(OSError):
                    file.unlink()
    remove_drafts(root / IN_USE)


def _claims(root: Path) -> Iterator[tuple[Path, str]]:
    """The file of every claim and who holds it; empty for a killed process."""
    yield from ((path, holder(path.with_suffix(".lock"))) for path in sorted((root / IN_USE).glob("*.json")))


def _listed(path: Path, name: str) -> list[str]:
    """What a claim lists under a name; a damaged one lists nothing."""
    try:
        return list(map(str, json.loads(path.read_text("utf-8"))[name]))
    except (OSError, ValueError, TypeError, KeyError):
        return []
