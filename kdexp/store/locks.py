"""Locks between processes: the file system's own, or leases on file systems that have none, such as some network mounts.

A lease is a file that its holder touches every few seconds. It ends with its holder on the same machine; on another one, once
it has not been touched for `LEASE` seconds.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from kdexp.processes import Process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
TAKEN = (errno.EACCES, errno.EAGAIN)

LEASE = 60.0
"""Seconds after which a lease that is not touched is over: longer than a busy disk or computer holds up a living process."""
LEASED = ".lease"
"""Suffix of the file next to a lock's that is the lease, where that file can't be locked."""
LOOK = 0.1
"""Seconds within which a process that looks whether a file is locked has let go of it."""
POLL = 0.5
"""Seconds between two looks at a lease that another process has."""


def has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked, found out by trying once; True where no file can be made either."""
    try:
        return fcntl is None or _try_locks(folder)  # Windows has others
    except OSError:
        return True


@cache
def _try_locks(folder: Path) -> bool:
    with TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return False
            raise
    return True


def acquire(path: Path, work: str, until: ExitStack, say: Callable[[str], None]) -> None:
    """Locks a file for `work` until the stack unwinds, waiting for the process that holds it."""
    lock = _lock(path)
    try:
        _acquire_now(lock)
    except Timeout:
        say(f"waiting for {holder(path) or 'another process'}, which trains {work}")
        lock.acquire()
        say(f"{work} is ready")
    until.callback(lock.release)
    _sign(path)


def hold(path: Path, until: ExitStack) -> None:
    """Locks a file until the stack unwinds, then removes it; raises `OSError` if another process has it."""
    lock = _lock(path)
    if lock.is_locked:
        raise Timeout(str(path))
    _acquire_now(lock)
    until.callback(lock.release)
    until.callback(_remove, path)
    _sign(path)


def take_turns(path: Path, until: ExitStack) -> None:
    """Locks a file until the stack unwinds, waiting for its holder."""
    lock = _lock(path)
    lock.acquire()
    until.callback(lock.release)


def forget(path: Path) -> None:
    """Removes what a killed process left of a lock."""
    _remove(path)
    _remove(_lease_of(path))


def _acquire_now(lock: BaseFileLock) -> None:
    """Acquires a lock that no process holds, though one may be looking (see `holder`); raises `Timeout`."""
    lock.acquire(timeout=LOOK, poll_interval=LOOK / 10)


def _lock(path: Path) -> BaseFileLock:
    """The lock of a file; the system releases that of a process that dies."""
    return FileLock(path, fallback_to_soft=False) if has_locks(path.parent) else _lease_at(_lease_of(path))


@cache
def _lease_at(path: Path) -> SoftFileLease:
    """One object per lease: it remembers since when it sees the lease of another process untouched."""
    return new_lease(path)


def new_lease(path: Path) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=LEASE, heartbeat_interval=LEASE / 6, poll_interval=POLL)


def _lease_of(path: Path) -> Path:
    return path.with_name(path.name + LEASED)


def _sign(path: Path) -> None:
    """Writes the name of this process into a file that it has locked, for the messages of others."""
    with suppress(OSError):  # on a full disk the lock works, but without a name
        path.write_text(str(Process.this()), "utf-8")


def holder(path: Path) -> str:
    """The process that has locked a file, such as `process 7 on laptop`; empty if none has."""
    try:
        with path.open("rb") as file:
            if fcntl is None:
                return _named_in(path)
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return _named_in(path) if _is_touched(_lease_of(path)) else ""
        if error.errno in TAKEN:
            return _text(path) or "another process"
        raise
    return ""


def _is_touched(lease: Path) -> bool:
    """Whether a lease was touched in the last minutes, by the clock of its file system: those of computers differ."""
    try:
        with lease.open("rb"):  # opening makes a network file system fetch the current times
            touched = lease.stat().st_mtime
    except OSError:
        return False
    try:
        with NamedTemporaryFile(dir=lease.parent, prefix=".now-") as new:
            now = Path(new.name).stat().st_mtime
    except OSError:  # of another user
        now = time.time()
    return now - touched < 2 * LEASE


def _named_in(path: Path) -> str:
    """The process named in a file, if it may still be running."""
    text = _text(path)
    process = Process.read(text)
    return text if process and process.may_run() else ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
