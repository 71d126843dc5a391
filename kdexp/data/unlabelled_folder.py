"""A user's own images without classes: a folder of them, flat or nested (`dataset.unlabelled_root`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch

from kdexp.data.class_folders import note_ignored, unusable
from kdexp.data.images import ImageFiles
from kdexp.data.listing import EXTENSIONS, Listing, list_images, subfolders
from kdexp.errors import did_you_mean
from kdexp.files import reason
from kdexp.text.characters import printable

NO_LABEL = -1
"""What stands in the place of a class number."""


class UnlabelledFolder:
    """The images in a folder and its subfolders, sorted by name, those in subfolders after those directly in it."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def name(self) -> str:
        """The folder in messages."""
        return printable(self.folder)

    @cached_property
    def listing(self) -> Listing:
        """What is in the folder."""
        return list_images(self.folder)

    def problem(self, channels: int) -> str:
        """Returns why the images can't be used for data of so many channels, judged without opening them; empty if they can."""
        try:
            found = "; ".join(self._problems(channels))
        except OSError as error:
            found = f"{printable(error.filename or self.folder)} can't be read ({reason(error)})"
        return f"dataset.unlabelled_root='{self.name}': {found}" if found else ""

    def _problems(self, channels: int) -> Iterator[str]:
        if channels not in (1, 3):
            yield f"image files have 1 or 3 channels, and these data {channels}"
        elif not self.folder.exists():
            yield f"no such folder;{did_you_mean(self.folder.name, subfolders(self.folder.parent))}".removesuffix(";")
        elif not self.folder.is_dir():
            yield "is not a folder"
        else:
            yield from unusable(self.listing.unsupported, self.listing.broken)
            if not self.listing.images + self.listing.unsupported + self.listing.broken:
                yield f"holds no images; these end in {', '.join(sorted(EXTENSIONS))}"

    def notes(self) -> list[str]:
        """Returns sentences about files that are not read."""
        return list(note_ignored(self.listing.ignored + self.listing.leftovers))

    def files(self, channels: int, size: int) -> ImageFiles:
        """Returns all images, to be read as squares of `size`, each with `NO_LABEL`."""
        paths = self.listing.images
        return ImageFiles(paths, torch.full((len(paths),), NO_LABEL), channels, size)
