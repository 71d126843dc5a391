"""Lists the files of a folder of images, sorted by name into images, other formats, leftovers and broken entries."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kdexp.files import reason, shown

EXTENSIONS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
}
UNSUPPORTED = {
    *(".heic", ".heif", ".avif", ".jxl", ".svg", ".jp2", ".j2k", ".psd", ".tga", ".exr", ".dcm"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
}
"""Suffixes of image formats that must be converted first."""
LEFTOVERS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"),
    *("system volume information", "lost+found", "__pycache__"),
}
"""Files and folders that operating systems and tools leave behind; ignored, like hidden ones."""

MOST_SEARCHED = 2000
"""Folders after which `contains_images` gives up."""


@dataclass
class Listing:
    """The paths in a folder and its subfolders, by kind."""

    images: list[str] = field(default_factory=list)
    """Files with the suffix of an image; some may also be in `broken`."""
    ignored: list[str] = field(default_factory=list)
    """Files of other kinds."""
    leftovers: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Entries that can't be read, each with the reason."""
    nested: list[str] = field(default_factory=list)
    """Subfolders that hold images."""


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or a leftover of an operating system or tool."""
    return name.startswith(".") or name.casefold() in LEFTOVERS


def suffix(name: str) -> str:
    """Returns the suffix of a file's name, with its dot, in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million `Path`s take seconds


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Returns everything in a folder, sorted by name; raises `OSError`."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def subfolders(folder: Path) -> list[str]:
    """Returns the sorted names of subfolders, without hidden ones and leftovers; empty if the folder does not exist."""
    there = entries(folder) if folder.is_dir() else []
    return [entry.name for entry in there if is_folder(entry) and not is_leftover(entry.name)]


def direct_images(folder: Path, most: int | None = None) -> list[str]:
    """Returns the sorted names of images directly in a folder, the first `most` found; empty if it can't be read."""
    found: list[str] = []
    try:
        with os.scandir(folder) as there:
            for entry in there:
                if suffix(entry.name) in EXTENSIONS | UNSUPPORTED and not is_leftover(entry.name) and not is_folder(entry):
                    found.append(entry.name)
                    if len(found) == most:
                        break
    except OSError:
        return []
    return sorted(found)


def contains_images(folder: Path) -> bool:
    """Whether an image is found in a folder or, within `MOST_SEARCHED` folders, below it."""
    return any(direct_images(below, 1) for below in _folders_below(folder))


def _folders_below(folder: Path) -> Iterator[Path]:
    waiting, seen = [folder], 0
    while waiting and seen < MOST_SEARCHED:
        here, seen = waiting.pop(), seen + 1
        yield here
        try:
            waiting += [here / name for name in reversed(subfolders(here))]
        except OSError:
            continue


def irregular(path: Path) -> str:
    """Returns why a path is not a regular file, without opening it; empty if it is one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to a file that does not exist" if path.is_symlink() else "the file does not exist"
    except OSError as error:
        return "a link that leads to itself" if error.errno == errno.ELOOP else reason(error)
    return "" if stat.S_ISREG(mode) else f"{_kind(mode)}, not a file"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def list_images(folder: Path) -> Listing:
    """Lists everything in a folder: images sorted by name, those in subfolders after those directly in it."""
    found = Listing()
    outside = frozenset(_identity(above) for above in folder.resolve().parents)
    waiting = [(str(folder), outside)]
    while waiting:
        here, above = waiting.pop()
        try:
            identity, there = _identity(Path(here)), entries(here)
        except OSError as error:
            found.broken.append(f"{shown(here)} ({reason(error)})")
            continue
        if identity in above:
            found.broken.append(f"{shown(here)} (a link to a folder above it)")
            continue
        images = len(found.images)
        below = [entry.path for entry in there if not _classify(entry, found)]
        if len(found.images) > images and here != str(folder):
            found.nested.append(here)
        waiting += [(path, above | {identity}) for path in reversed(below)]
    return found


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def _classify(entry: os.DirEntry[str], found: Listing) -> bool:
    """Adds an entry to the listing, unless it is a folder to be listed itself; returns whether it did."""
    kind = suffix(entry.name)
    if is_leftover(entry.name):
        found.leftovers.append(entry.path)
    elif is_folder(entry):
        if kind not in EXTENSIONS:
            return False
        found.broken.append(f"{shown(entry.path)} (a folder, not a file)")
    elif kind in EXTENSIONS:
        found.images.append(entry.path)
        if why := _irregular_entry(entry):
            found.broken.append(f"{shown(entry.path)} ({why})")
    else:
        (found.unsupported if kind in UNSUPPORTED else found.ignored).append(entry.path)
    return True


def _irregular_entry(entry: os.DirEntry[str]) -> str:
    # The directory entry usually knows the file type, which spares a stat call per file.
    try:
        plain = entry.is_file()
    except OSError:
        plain = False
    return "" if plain else irregular(Path(entry.path))
