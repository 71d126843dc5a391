"""Folders with one subfolder of images per class: what is in them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kdexp.arguments import a_few
from kdexp.data.dataset import RawImages
from kdexp.data.decoding import decode

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

    @cached_property
    def _entries(self) -> dict[str, list[Path]]:
        return {name: sorted(_visible(self.folder / name)) for name in self.classes}

    @cached_property
    def paths(self) -> dict[str, list[Path]]:
        """The image files of every class."""
        return {name: [path for path in inside if _is_image(path)] for name, inside in self._entries.items()}

    def complaints(self) -> Iterator[str]:
        """What is wrong, as far as names tell: empty classes, and files that are no images."""
        if empty := [str(self.folder / name) for name, paths in self.paths.items() if not paths]:
            yield f"no images in {a_few(empty)}"
        alien = [path for inside in self._entries.values() for path in inside if not _is_image(path)]
        if alien:
            shown = a_few([str(path) for path in alien])
            yield f"{shown} must be moved elsewhere, images end in {', '.join(sorted(EXTENSIONS))}"

    @property
    def labels(self) -> Tensor:
        """Class numbers [N], int64, of the files in their order."""
        return torch.tensor([label for label, paths in enumerate(self.paths.values()) for _ in paths])


def read_folders(folders: Sequence[ClassFolders], channels: int, size: int) -> list[RawImages]:
    """Their images in squares of that size, labelled by the number of the class; raises `DataUnavailable` for all of them."""
    files = [[path for paths in each.paths.values() for path in paths] for each in folders]
    return [RawImages(images, each.labels) for images, each in zip(decode(files, channels, size), folders, strict=True)]


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in LEFTOVERS)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS
