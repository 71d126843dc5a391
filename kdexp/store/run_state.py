"""State of a run: `status.json` in its folder, and a file that is locked while its process runs."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from kdexp.files import remove_drafts, write_whole
from kdexp.store.locks import forget, holder

STATUS, ALIVE = "status.json", "run.lock"
WORKERS = "workers"
"""The folder in a sweep where its workers register, each with a file that it locks."""

RUNNING, FINISHED, FAILED, INTERRUPTED, KILLED = "running", "finished", "failed", "interrupted", "killed"


def write_state(folder: Path, state: str, why: str = "") -> None:
    """Writes `status.json`, if the disk allows it."""
    with suppress(OSError):
        write_whole(folder / STATUS, json.dumps({"state": state, "reason": why}), lasting=state != RUNNING)


def runner(folder: Path) -> str:
    """The process that works on a run or a sweep, such as `process 7 on laptop`; empty if none does."""
    locks = [folder / ALIVE, *sorted((folder / WORKERS).glob("*.lock"))]
    try:
        return next(filter(None, map(holder, locks)), "")
    except OSError:  # another user's folder: it may be true
        return "another process"


def was_killed(folder: Path) -> bool:
    """Whether the process of a run or sweep was killed before it finished; a sweep has no state of its own."""
    if not (folder / ALIVE).is_file() or runner(folder):
        return False
    return state_of(folder) in (RUNNING, "")


def state_of(folder: Path) -> str:
    """The state in `status.json`; empty if there is none."""
    try:
        return str(json.loads((folder / STATUS).read_text("utf-8"))["state"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def settle(folder: Path) -> None:
    """Marks a run or sweep whose process was killed as killed, and removes its drafts."""
    if runner(folder) or not (folder / ALIVE).is_file():
        return
    if state_of(folder) == RUNNING:
        write_state(folder, KILLED)
    remove_drafts(folder)
    forget(folder / ALIVE)
