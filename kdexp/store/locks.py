"""Locks between processes, on file systems that have them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kdexp.processes import Process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
TAKEN = (errno.EACCES, errno.EAGAIN)


def acquire(path: Path, work: str, until: ExitStack, say: Callable[[str], None]) -> bool:
    """Locks a file for `work` until the stack unwinds, waiting for the process that holds it.

    The system releases the lock of a process that dies. Returns False, with a message, on a file system without locks.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            say(f"waiting for {holder(path) or 'another process'}, which trains {work}")
            lock.acquire()
            say(f"{work} is ready")
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        say(f"this file system has no locks ({path.parent}): two runs at the same time may both train {work}")
        return False
    until.callback(lock.release)
    with suppress(OSError):  # on a full disk the lock works, but without a name
        path.write_text(str(Process.this()), "utf-8")
    return True


def hold(path: Path, until: ExitStack) -> None:
    """Locks a file that no other process uses until the stack unwinds, then removes it.

    The file names this process, which is all there is on a file system without locks.
    """
    lock = FileLock(path, fallback_to_soft=False)
    with _missing_locks_ignored():
        lock.acquire(blocking=False)
        until.callback(lock.release)
    until.callback(_remove, path)
    with suppress(OSError):  # as above
        path.write_text(str(Process.this()), "utf-8")


def take_turns(path: Path, until: ExitStack) -> None:
    """Locks a file until the stack unwinds, waiting for its holder; does nothing on a file system without locks."""
    lock = FileLock(path, fallback_to_soft=False)
    with _missing_locks_ignored():
        lock.acquire()
        until.callback(lock.release)


class ByteLocks:
    """Many locks in one file, each on a byte of it. The system releases those of a process that dies, over NFS too.

    A process must not open the same file twice: closing it once releases all locks of the process.
    """

    def __init__(self, path: Path):
        self._file = path.open("ab")

    def take(self, number: int) -> bool:
        """Locks a byte; False if another process has. Raises `OSError` on a file system without locks."""
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "this system has no locks on parts of files")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            if error.errno in TAKEN:
                return False
            raise
        return True

    def release(self, number: int) -> None:
        """Unlocks a byte."""
        if fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        """Unlocks everything."""
        self._file.close()


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
            return _named_in(path)
        if error.errno in TAKEN:
            return _text(path) or "another process"
        raise
    return ""


@contextmanager
def _missing_locks_ignored() -> Iterator[None]:
    """Ignores errors that say that the file system has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


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
