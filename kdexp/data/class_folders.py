"""Folders with one subfolder of images per class: what is in them, and what is wrong with them."""

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
    bears_images,
    entries,
    is_folder,
    is_leftover,
    list_images,
    straight_images,
    subfolders,
)
from kdexp.errors import a_few
from kdexp.files import reason, shown

ABOUT_IMAGES = {"annotation", "annotations", "label", "labels", "csv", "json", "xml", "txt", "doc", "docs", "meta", "metadata"}
"""Folders next to those of classes that are ignored if they hold no image."""

WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


def class_name(folder: str) -> str:
    """The class that a folder's name means: accented letters written one way (macOS writes them in two), unprintable ones
    escaped.
    """
    return shown(unicodedata.normalize("NFC", folder))


def in_order(names: list[str]) -> list[str]:
    """The names of classes, sorted: as numbers if all are whole numbers."""
    numbers = all(map(WHOLE_NUMBER.fullmatch, names))
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


class ClassFolders:
    """The images in `folder/CLASS/` and below it; classes in their order, files in that of their names."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.unreadable = ""
        self._without_images: list[str] = []
        self._folders: dict[str, list[str]] = {}
        try:
            names = subfolders(folder)
            self._without_images = [n for n in names if n.casefold() in ABOUT_IMAGES and not bears_images(folder / n)]
        except OSError as error:
            names, self.unreadable = [], f"{shown(error.filename)} can't be read ({reason(error)})"
        for name in (name for name in names if name not in self._without_images):
            self._folders.setdefault(class_name(name), []).append(name)
        self.classes = in_order(list(self._folders))

    @property
    def name(self) -> str:
        """The folder as sentences name it."""
        return f"{shown(self.folder.name or self.folder.resolve().name)}/"

    @cached_property
    def listings(self) -> dict[str, Listing]:
        """What is in the folder of every class."""
        return {name: list_images(self.folder / self._folders[name][0]) for name in self.classes}

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """The image files of every class."""
        return {name: listing.images for name, listing in self.listings.items()}

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(map(len, self.paths.values()))

    def found(self, kind: str) -> list[str]:
        """The paths of that kind in all classes, the field of a `Listing`."""
        return [path for listing in self.listings.values() for path in getattr(listing, kind)]

    @cached_property
    def _images_here(self) -> list[str]:
        return straight_images(self.folder)

    @property
    def ignored(self) -> list[str]:
        """Files that are no images, folders without images, and what systems left there."""
        images = set(self._images_here)
        others = [entry for entry in entries(self.folder) if is_leftover(entry.name) or not is_folder(entry)]
        here = [entry.path for entry in others if entry.name not in images]
        without = [f"{self.folder / name}/" for name in self._without_images]
        return without + here + self.found("ignored") + self.found("leftovers")

    def problems(self) -> Iterator[str]:
        """What must be mended before the images can be used, as far as names show it."""
        if self.unreadable:
            yield self.unreadable
        for name, folders in self._folders.items():
            if len(folders) > 1:
                yield f"{shown(self.folder)} has {len(folders)} folders named {name}, encoded differently; merge or rename them"
        if empty := [name for name, found in self.listings.items() if not found.images + found.unsupported]:
            others = any(self.listings[name].ignored for name in empty)
            known = f"; images end in {', '.join(sorted(EXTENSIONS))}" if others else ""
            yield f"no images in {a_few([*map(self._empty, empty)])}{known}"
        if unsupported := self.found("unsupported"):
            kinds = ", ".join(sorted({Path(path).suffix.lower() for path in unsupported}))
            yield (
                f"{kinds} can't be read ({a_few([*map(shown, unsupported)], 3)}); convert to PNG or JPEG, "
                "for example with ImageMagick: magick FILE FILE.png"
            )
        if broken := self.found("broken"):
            yield f"can't be read: {a_few(broken)}; repair or remove {'it' if len(broken) == 1 else 'them'}"

    def _empty(self, name: str) -> str:
        listing, folder = self.listings[name], shown(self.folder / self._folders[name][0])
        others = [Path(path).name for path in listing.ignored]
        return f"{folder} (only {a_few([*map(shown, others)], 2)})" if others else folder

    def notes(self) -> Iterator[str]:
        """What a user may not expect of how the folders are read."""
        if nested := self.found("nested"):
            there = a_few([shown(Path(path).relative_to(self.folder)) for path in nested], 3)
            yield f"in {self.name}, images in subfolders count to the class above them: {there}"
        if straight := self._images_here:
            count, are = ("1 image", "is") if len(straight) == 1 else (f"{len(straight):,} images", "are")
            there = a_few([*map(shown, straight)], 3)
            yield f"{count} straight in {self.name} {are} in no class folder and not used: {there}"

    def files(self, channels: int, size: int) -> ImageFiles:
        """All images, to be squares of that size, labelled by the number of the class."""
        labels = torch.tensor([label for label, paths in enumerate(self.paths.values()) for _ in paths], dtype=torch.long)
        return ImageFiles([path for paths in self.paths.values() for path in paths], labels, channels, size)


def note_ignored(paths: list[str]) -> Iterator[str]:
    """A sentence on the files and folders that are ignored, if there are any; what systems left is named last."""
    if paths:
        what = "1 other file or folder is" if len(paths) == 1 else f"{len(paths):,} other files and folders are"
        in_turn = sorted(paths, key=lambda path: is_leftover(Path(path).name))
        yield f"{what} ignored: {a_few([*map(shown, in_turn)], 3)}"
