"""Folders with one subfolder of images per class: their contents and their problems."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch

from kdexp.data.images import ImageFiles
from kdexp.data.listing import (
    EXTENSIONS,
    Listing,
    contains_images,
    direct_images,
    entries,
    is_folder,
    is_leftover,
    list_images,
    subfolders,
)
from kdexp.errors import a_few
from kdexp.files import reason
from kdexp.text.characters import printable

ABOUT_IMAGES = {"annotation", "annotations", "label", "labels", "csv", "json", "xml", "txt", "doc", "docs", "meta", "metadata"}
"""Names of folders that are ignored next to class folders if they hold no image."""

WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


def class_name(folder: str) -> str:
    """Returns the class name for a folder: accented letters composed (macOS decomposes them), unprintable ones escaped."""
    return printable(unicodedata.normalize("NFC", folder))


def in_order(names: list[str]) -> list[str]:
    """Sorts class names, as numbers if all are whole numbers."""
    numbers = all(map(WHOLE_NUMBER.fullmatch, names))
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


class ClassFolders:
    """The images in `folder/CLASS/` and its subfolders. Classes are sorted by `in_order`, files by name."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.unreadable = ""
        self._without_images: list[str] = []
        self._folders: dict[str, list[str]] = {}
        try:
            names = subfolders(folder)
            self._without_images = [n for n in names if n.casefold() in ABOUT_IMAGES and not contains_images(folder / n)]
        except OSError as error:
            names, self.unreadable = [], f"{printable(error.filename)} can't be read ({reason(error)})"
        for name in (name for name in names if name not in self._without_images):
            self._folders.setdefault(class_name(name), []).append(name)
        self.classes = in_order(list(self._folders))

    @property
    def name(self) -> str:
        """Name of the folder in messages."""
        return f"{printable(self.folder.name or self.folder.resolve().name)}/"

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """The contents of every class folder."""
        return {name: list_images(self.folder / self._folders[name][0]) for name in self.classes}

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """The image files of every class."""
        return {name: listing.images for name, listing in self.listings.items()}

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(len, self.paths.values()))

    def found(self, kind: str) -> list[str]:
        """Returns the paths of one kind (a field of `Listing`) in all classes."""
        return [path for listing in self.listings.values() for path in getattr(listing, kind)]

    @cached_property
    def _images_here(self) -> list[str]:
        return direct_images(self.folder)

    @property
    def ignored(self) -> list[str]:
        """Files that are not images, folders without images, and files that operating systems leave behind."""
        images = set(self._images_here)
        others = [entry for entry in entries(self.folder) if is_leftover(entry.name) or not is_folder(entry)]
        here = [entry.path for entry in others if entry.name not in images]
        without = [f"{self.folder / name}/" for name in self._without_images]
        return without + here + self.found("ignored") + self.found("leftovers")

    def problems(self) -> Iterator[str]:
        """Yields everything that must be fixed before the images can be used, judged without opening them."""
        if self.unreadable:
            yield self.unreadable
        for name, folders in self._folders.items():
            if len(folders) > 1:
                count = f"{len(folders)} folders named {name}"
                yield f"{printable(self.folder)} has {count}, encoded differently; merge or rename them"
        if empty := [name for name, found in self.listings.items() if not found.images + found.unsupported]:
            others = any(self.listings[name].ignored for name in empty)
            endings = f"; images end in {', '.join(sorted(EXTENSIONS))}" if others else ""
            yield f"no images in {a_few([*map(self._empty_folder, empty)])}{endings}"
        yield from unusable(self.found("unsupported"), self.found("broken"))

    def _empty_folder(self, name: str) -> str:
        listing, folder = self.listings[name], printable(self.folder / self._folders[name][0])
        others = [Path(path).name for path in listing.ignored]
        return f"{folder} (only {a_few([*map(printable, others)], 2)})" if others else folder

    def notes(self) -> Iterator[str]:
        """Yields sentences about folders that are read in a way that users may not expect."""
        if nested := self.found("nested"):
            there = a_few([printable(Path(path).relative_to(self.folder)) for path in nested], 3)
            yield f"in {self.name}, images in subfolders belong to the class folder above them: {there}"
        if images := self._images_here:
            count, are = ("1 image", "is") if len(images) == 1 else (f"{len(images):,} images", "are")
            there = a_few([*map(printable, images)], 3)
            yield f"{count} directly in {self.name} {are} in no class folder and not used: {there}"

    def files(self, channels: int, size: int) -> ImageFiles:
        """Returns all images, to be read as squares of `size`, with class numbers as labels."""
        labels = torch.tensor([label for label, paths in enumerate(self.paths.values()) for _ in paths], dtype=torch.long)
        return ImageFiles([path for paths in self.paths.values() for path in paths], labels, channels, size)


def unusable(unsupported: list[str], broken: list[str]) -> Iterator[str]:
    """Yields sentences about images in formats that are not read, and about entries that can't be."""
    if unsupported:
        kinds = ", ".join(sorted({Path(path).suffix.lower() for path in unsupported}))
        yield (
            f"{kinds} can't be read ({a_few([*map(printable, unsupported)], 3)}); convert to PNG or JPEG, "
            "for example with ImageMagick: magick FILE FILE.png"
        )
    if broken:
        yield f"can't be read: {a_few(broken)}; repair or remove {'it' if len(broken) == 1 else 'them'}"


def note_ignored(paths: list[str]) -> Iterator[str]:
    """Yields a sentence about ignored files and folders, if there are any; leftovers of operating systems are named last."""
    if paths:
        what = "1 other file or folder is" if len(paths) == 1 else f"{len(paths):,} other files and folders are"
        leftovers_last = sorted(paths, key=lambda path: is_leftover(Path(path).name))
        yield f"{what} ignored: {a_few([*map(printable, leftovers_last)], 3)}"
