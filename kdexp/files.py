"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import uuid4

DRAFT = ".draft-"
"""In the names of files and folders that nobody may read yet; what a killed process left of them is never taken for whole."""


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
    """The hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def reason(error: OSError) -> str:
    """An operating system's complaint in its own few words, such as `No space left on device`."""
    return error.strerror or str(error)
