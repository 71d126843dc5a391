"""Folders with one subfolder of images per class: what is in them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch

from kdexp.arguments import a_few
from kdexp.data.decoding import ImageFiles

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
LEFTOVERS = {"thumbs.db", "desktop.ini"}
"""Files that systems leave in folders of pictures; like hidden files, they are passed over."""


def subfolders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted; none if it is not there."""
    visible = (path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else ()
    return sorted(path.name for path in visible if path.is_dir())


class ClassFolders:
    """The images in `folder/CLASS/`, classes and files in the order of their names."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.classes = subfolders(folder)
        self._alien: list[str] = []

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """The image files of every class."""
        return {name: list(self._images(self.folder / name)) for name in self.classes}

    def _images(self, folder: Path) -> Iterator[str]:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name.lower() in LEFTOVERS:
                continue
            if path.suffix.lower() in EXTENSIONS:
                yield str(path)  # a million `Path`s would take a gigabyte
            else:
                self._alien.append(str(path))

    def complaints(self) -> Iterator[str]:
        """What is wrong, as far as names tell: empty classes, and files that are no images."""
        if empty := [str(self.folder / name) for name, paths in self.paths.items() if not paths]:
            yield f"no images in {a_few(empty)}"
        if self._alien:
            yield f"{a_few(self._alien)} must be moved elsewhere, images end in {', '.join(sorted(EXTENSIONS))}"

    def files(self, channels: int, size: int) -> ImageFiles:
        """All images, to be squares of that size, labelled by the number of the class."""
        labels = torch.tensor([label for label, paths in enumerate(self.paths.values()) for _ in paths])
        return ImageFiles([path for paths in self.paths.values() for path in paths], labels, channels, size)
