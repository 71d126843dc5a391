"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

DRAFT = ".draft-"
"""In the names of files and folders that nobody may read yet; what a killed process left of them is never taken for whole."""


SETTLED = 2 * 10**9
"""Nanoseconds after which any two changes of a file differ in their times, on every usual file system."""


class Unwritable(RuntimeError):
    """A place that can't be written; the message names it, the reason, and another way."""


def draft_of(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f"{path.name}{DRAFT}{uuid4().hex[:8]}")


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Writes the file beside its place and moves it there in one step; raises `OSError` and then leaves nothing."""
    draft = draft_of(path)
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hash of a file's content, in hexadecimal digits; this process reads no file twice that nothing touched meanwhile."""
    now = path.stat()
    state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) < SETTLED:
        return _read_digest(path, algorithm)
    return _known_digest(path, algorithm, state)


@lru_cache(maxsize=256)
def _known_digest(path: Path, algorithm: str, _state: tuple[int, ...]) -> str:
    return _read_digest(path, algorithm)


def _read_digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def reason(error: OSError) -> str:
    """An operating system's complaint in its own few words, such as `No space left on device`."""
    return error.strerror or str(error)


def is_file(name: str) -> bool:
    """Whether there is a regular file of that name, which may be longer than a file system takes."""
    with suppress(OSError):
        return Path(name).is_file()
    return False


def folder_problems(name: str) -> list[str]:
    """Why files can't be kept in a folder of that name, as far as that can be known without writing; empty if they can."""
    if not name.strip():
        return ["must name a folder; this one is empty"]
    if "\0" in name:
        return ["must not contain a NUL character"]
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        return [f"there is no user {name.partition('/')[0][1:]!r} on this machine"]
    try:
        there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    except OSError as error:  # a name too long, or a loop of links
        return [f"can't be a folder: {reason(error)}"]
    return [] if there.is_dir() else [f"{'' if there == path else f'{there} '}is a file; name a folder"]
