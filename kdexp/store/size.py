"""How much a store takes on the disk, and the remark on it below a run's table. Does not import torch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GB, MB = 10**9, 10**6
NOTABLE = GB
"""Bytes from which the end of a run tells a store's size."""
MOST_FILES = 100_000
"""Files that are counted at most, so that a run on a slow disk ends soon."""


def size_words(size: int) -> str:
    """The size as `0.25 MB`, `12.3 MB` or `1.50 GB`."""
    if size >= GB:
        return f"{size / GB:.2f} GB"
    return f"{size / MB:.1f} MB" if size >= 10 * MB else f"{size / MB:.2f} MB"


def size_remark(store: str) -> str:
    """What the store in that folder takes and how to make it smaller, once it has `NOTABLE` bytes; else an empty string."""
    size, complete = _count(Path(store).expanduser())
    if size < NOTABLE:
        return ""
    where = "" if store == "outputs/store" else f" --store {shlex.quote(store)}"
    more = "" if complete else "more than "
    return (
        f"The store has {more}{size_words(size)}: kdexp-store list{where} shows what takes it, "
        f"kdexp-store prune{where} --older-than 30d --keep-best what could go."
    )


def _count(root: Path) -> tuple[int, bool]:
    """The bytes of the files below a folder, and whether these are all."""
    total = 0
    for number, size in enumerate(_sizes(root)):
        if number == MOST_FILES:
            return total, False
        total += size
    return total, True


def _sizes(folder: str | Path) -> Iterator[int]:
    """The sizes of all files below a folder; those that disappear or can't be read meanwhile are left out."""
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False).st_size
