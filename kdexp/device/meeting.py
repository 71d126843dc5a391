"""Where ranks meet: a small server in the first one, whose address the others are given, or read from a file."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from kdexp.files import DAY, write_whole
from kdexp.processes import Process

COMING = timedelta(minutes=10)
"""How long ranks wait for the others to start."""
CALL = timedelta(seconds=20)
"""How long an address is tried, which a killed process may have left."""
POLL = 0.1
PREFIX = ".ranks_"
"""Of the names of files with an address."""


class NotMet(RuntimeError):
    """The other ranks did not come; the message says which."""


def open_meeting(host: str) -> dist.TCPStore:
    """Starts the server of the first rank; `host` is what the others call its machine."""
    return dist.TCPStore(host, 0, None, True, COMING, wait_for_workers=False)


def come_to(host: str, port: int) -> dist.TCPStore:
    """Calls the server of the first rank; raises `RuntimeError` if it is not there."""
    store = dist.TCPStore(host, port, None, False, CALL, wait_for_workers=False)
    store.set_timeout(COMING)
    return store


def wait_for_all(store: dist.Store, rank: int, ranks: int, check: Callable[[], None]) -> None:
    """Waits until all ranks have come; calls `check` meanwhile, and raises `NotMet` after `COMING`."""
    end = time.monotonic() + COMING.total_seconds()
    store.set(f"here/{rank}", "")
    while missing := [number for number in range(ranks) if not store.check([f"here/{number}"])]:
        check()
        if time.monotonic() > end:
            raise NotMet(f"rank {missing[0]} of {ranks} has not started within {_minutes()}")
        time.sleep(POLL)


def meet_at(file: Path, rank: int, ranks: int) -> dist.Store:
    """Meets ranks on any machines by a file, which the first one writes and removes once all have come; raises `NotMet`."""
    if rank:
        store = _find(file)
        wait_for_all(store, rank, ranks, lambda: None)
        return store
    remove_abandoned(file.parent)
    store = open_meeting(socket.gethostname())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"host": store.host, "port": store.port, "process": str(Process.this())}))
    try:
        wait_for_all(store, rank, ranks, lambda: None)
    finally:
        file.unlink(missing_ok=True)
    return store


def _find(file: Path) -> dist.TCPStore:
    """The server whose address the first rank writes into a file."""
    end, last = time.monotonic() + COMING.total_seconds(), "is not there"
    while time.monotonic() < end:
        try:
            found = json.loads(file.read_text("utf-8"))
            return come_to(found["host"], int(found["port"]))
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(POLL)
        except RuntimeError as error:  # an address of a killed process, or of a machine that can't be reached from here
            last = f"names an address that does not answer ({str(error).partition(chr(10))[0][:200]})"
    raise NotMet(f"the first rank was not met within {_minutes()}: {file} {last}; do all nodes have the same disk there?")


def remove_abandoned(folder: Path) -> None:
    """Removes files with the addresses of processes that have ended, or on another machine have met long ago."""
    for file in folder.glob(f"{PREFIX}*"):
        with suppress(OSError):
            process = _writer(file)
            if not process.may_run() if process and process.is_here else time.time() - file.stat().st_mtime > DAY:
                file.unlink()


def _writer(file: Path) -> Process | None:
    with suppress(ValueError, KeyError, TypeError):
        return Process.read(json.loads(file.read_text("utf-8"))["process"])
    return None


def _minutes() -> str:
    return f"{COMING.total_seconds() / 60:g} minutes"
