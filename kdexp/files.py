"""Writes files completely or not at all, computes digests, and checks paths."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from kdexp.processes import Process

DRAFT = ".draft-"
"""Part of the names of files and folders that are still being written, so that leftovers of a killed process are never read."""

SETTLED = 2 * 10**9
"""Nanoseconds after which a further change of a file has another time stamp, on every usual file system."""

MARK = re.compile(re.escape(DRAFT) + r"[0-9a-f]{8}-(\d+)-([^.]+)")
DAY = 86_400

CANT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of file systems that can't or need not be synchronised."""


def draft_of(path: Path) -> Path:
    """A path next to `path` that no other process uses."""
    return path.with_name(path.name + draft_mark())


def draft_mark() -> str:
    """A suffix that marks a name as a draft of this process."""
    process = Process.this()
    return f"{DRAFT}{uuid4().hex[:8]}-{process.number}-{process.host}"


def writer_of(draft: Path) -> Process | None:
    """The process that is writing a draft, read from the draft's name."""
    found = MARK.search(draft.name)
    return Process(int(found[1]), found[2]) if found else None


def abandoned(draft: Path) -> bool:
    """Whether the process that wrote a draft has ended, or is on another machine and has not changed the draft for a day."""
    writer = writer_of(draft)
    if writer is None or writer.is_here:
        return writer is not None and not writer.may_run()
    try:
        return time.time() - draft.stat().st_mtime > DAY
    except OSError:
        return False


def remove_drafts(folder: Path) -> None:
    """Removes the drafts that killed processes left in a folder, as far as permissions allow."""
    for draft in filter(abandoned, folder.glob(f"*{DRAFT}*")):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            with suppress(OSError):
                draft.unlink()


def is_file(path: str | Path) -> bool:
    """Whether the file exists; False for names that are too long or that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def write_whole(path: Path, content: bytes | memoryview | str, *, lasting: bool = False) -> None:
    """Writes a file next to `path` and moves it there in one step; raises `OSError`, and then leaves nothing behind.

    A text is written as UTF-8; bytes of a command or a path that are not UTF-8 are written unchanged (PEP 383). A `lasting`
    file survives a power failure right after this call.
    """
    draft = draft_of(path)
    try:
        draft.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        if lasting:
            sync(draft)
        draft.replace(path)
        if lasting:
            sync(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Waits until a file's contents, or the names in a folder, are on the disk itself; raises `OSError`."""
    if os.name != "posix":  # where folders can't be opened
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in CANT_SYNC:
            raise
    finally:
        os.close(number)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file's contents, in hexadecimal digits; a process reads an unchanged file once."""
    now = path.stat()
    state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) < SETTLED:
        return _read_digest(path, algorithm)
    return _cached_digest(path, algorithm, state)


def stamp(paths: Iterable[str | Path]) -> str:
    """Hash of the paths, sizes and modification times of files, which are not opened; files may be missing."""
    digest = hashlib.sha256()
    for path in paths:
        state = None
        with suppress(OSError):
            found = Path(path).stat()
            state = found.st_size, found.st_mtime_ns
        digest.update(f"{path}\0{state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _cached_digest(path: Path, algorithm: str, _state: tuple[int, ...]) -> str:
    return _read_digest(path, algorithm)


def _read_digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def reason(error: OSError) -> str:
    """The operating system's words for an error, such as `No space left on device`."""
    return error.strerror or str(error)


def at_home(name: str | Path) -> Path:
    """The path, with `~` or `~USER` at its start replaced by the user's home folder; unchanged if there is no such user."""
    with suppress(RuntimeError, ValueError):  # names no user can have raise the latter
        return Path(name).expanduser()
    return Path(name)


def unknown_user(name: str) -> str:
    """The sentence about a path that begins with `~USER` for a user that does not exist; empty for others."""
    user = name.partition("/")[0]
    return f"there is no user {user[1:]!r} on this machine" if user[:1] == str(at_home(user))[:1] == "~" else ""


def is_folder(name: str) -> bool:
    """Whether the folder exists; False for names that are too long or that no folder can have."""
    with suppress(OSError, ValueError):
        return Path(name).is_dir()
    return False


def folder_problems(name: str) -> list[str]:
    """Why files can't be written into a folder of that name, found out without writing; empty if they can."""
    if not name.strip():
        return ["must name a folder; this one is empty"]
    if "\0" in name:
        return ["must not contain a NUL character"]
    if sentence := unknown_user(name):
        return [sentence]
    path = at_home(name)
    try:
        existing = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    except OSError as error:  # a name that is too long, or a loop of links
        return [f"can't be a folder: {reason(error)}"]
    return [] if existing.is_dir() else [f"{'' if existing == path else f'{existing} '}is a file; name a folder"]
