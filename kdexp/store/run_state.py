"""How far a run is: what `status.json` in its folder says, and the file there that is locked while its process lives."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from kdexp.files import remove_drafts, write_whole
from kdexp.store.locks import holder

STATUS, ALIVE = "status.json", "run.lock"

RUNNING, FINISHED, FAILED, INTERRUPTED, KILLED = "running", "finished", "failed", "interrupted", "killed"


def write_state(folder: Path, state: str, why: str = "") -> None:
    """Writes `status.json`, if the disk takes it."""
    with suppress(OSError):
        write_whole(folder / STATUS, json.dumps({"state": state, "reason": why}), lasting=state != RUNNING)


def runner(folder: Path) -> str:
    """The process that is at work on a run or a sweep, such as `process 7 on laptop`; empty if none is."""
    try:
        return holder(folder / ALIVE)
    except OSError:  # somebody else's folder: nothing can be said against it
        return "another process"


def settle(folder: Path) -> None:
    """Has the folder of a run or a sweep say that it was killed, where it was, and removes what was half written there."""
    if runner(folder) or not (folder / ALIVE).is_file():
        return
    with suppress(OSError, ValueError, AttributeError):
        if json.loads((folder / STATUS).read_text("utf-8")).get("state") == RUNNING:
            write_state(folder, KILLED)
    remove_drafts(folder)
    with suppress(OSError):
        (folder / ALIVE).unlink()
