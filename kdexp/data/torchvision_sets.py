"""The data sets that torchvision downloads and reads."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdexp.data.class_folders import ClassFolders, note_ignored
from kdexp.data.dataset import ImageDataset
from kdexp.data.decoding import decode
from kdexp.data.images import RawImages
from kdexp.data.layout import holds_images, not_a_folder
from kdexp.errors import DataUnavailable, first_line
from kdexp.files import file_digest


@contextmanager
def extracting_safely() -> Iterator[None]:
    """Makes tar archives that would write outside the folder they are extracted to raise `tarfile.TarError`."""
    before = vars(tarfile.TarFile).get("extraction_filter")
    # Python before 3.11.4 has no filters and ignores this.
    tarfile.TarFile.extraction_filter = staticmethod(getattr(tarfile, "data_filter", None))  # type: ignore
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


class TorchvisionDataset(ImageDataset):
    """A torchvision data set under `root`, downloaded if missing. Files are verified by hash before they are read."""

    torchvision_name: str
    folder: str
    """The folder that torchvision makes under `root`."""
    digests: Mapping[str, str] | None = None
    """SHA-256 of the files, for sets that torchvision itself reads without verifying them."""

    def __init__(self, *, root: str, download: bool, **shared):
        super().__init__(**shared)
        self.root = Path(root).expanduser()
        self.download = download

    def files(self) -> Mapping[str, str]:
        """Returns names and digests of the files in `folder`: SHA-256, or torchvision's own MD5."""
        from torchvision import datasets

        source = getattr(datasets, self.torchvision_name)
        return self.digests or dict([*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])])

    def missing(self) -> str:
        if problem := self._other_root():
            return f"dataset.root={str(self.root)!r} {problem}"
        if self.download or (self.root / self.folder).is_dir():
            return ""
        return (
            f"no {self.torchvision_name} in dataset.root={str(self.root)!r} (looked for {self.folder}/); "
            "add dataset.download=true, or dataset.root=FOLDER that holds it"
        )

    def _other_root(self) -> str:
        """Returns why the root can't be torchvision's folder; empty if it can."""
        if self.root.exists() and (problem := not_a_folder(self.root)):
            return problem
        if not (self.root / self.folder).is_dir() and holds_images(self.root):
            return (
                f"holds folders of images, not {self.torchvision_name} as torchvision keeps it ({self.folder}/); "
                "dataset=image_folder reads them"
            )
        return ""

    def present(self) -> bool:
        return all((self.root / self.folder / name).is_file() for name in self.files())

    def read(self) -> tuple[RawImages, RawImages]:
        from torchvision import datasets

        self._check_files()
        source, fetch = getattr(datasets, self.torchvision_name), not self.present()
        try:
            with extracting_safely():
                train, test = (source(str(self.root), train=part, download=fetch) for part in (True, False))
        except (RuntimeError, OSError, tarfile.TarError) as error:
            raise self._unavailable(first_line(error), "dataset.root=FOLDER names another place") from error
        return self._raw(train), self._raw(test)

    def _check_files(self) -> None:
        algorithm = "sha256" if self.digests else "md5"
        for name, digest in self.files().items():
            path = self.root / self.folder / name
            if not path.is_file():
                if not self.download:
                    fix = "dataset.download=true fetches it; dataset.root=FOLDER names another place"
                    raise self._unavailable(f"there is no {self.folder}/{name}", fix)
            elif file_digest(path, algorithm) != digest:
                fix = "delete it, and dataset.download=true fetches it again"
                raise self._unavailable(f"{self.folder}/{name} is damaged, its {algorithm} is not the published file's", fix)

    def _unavailable(self, what: str, fix: str) -> DataUnavailable:
        return DataUnavailable(f"{self.torchvision_name} in dataset.root={str(self.root)!r} can't be read: {what} ({fix})")

    def _raw(self, source: Any) -> RawImages:
        pixels = torch.as_tensor(np.asarray(source.data))
        pixels = pixels.unsqueeze(1) if self.in_channels == 1 else pixels.permute(0, 3, 1, 2)
        return RawImages(pixels, torch.as_tensor(np.asarray(source.targets)).long())


class MNIST(TorchvisionDataset):
    """Handwritten digits, 28×28 grey (LeCun et al. 1998)."""

    torchvision_name, folder = "MNIST", "MNIST/raw"
    num_classes, in_channels, image_size = 10, 1, 28
    digests = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }


class FashionMNIST(TorchvisionDataset):
    """Clothes, 28×28 grey (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747)."""

    torchvision_name, folder = "FashionMNIST", "FashionMNIST/raw"
    num_classes, in_channels, image_size = 10, 1, 28
    digests = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }


class CIFAR10(TorchvisionDataset):
    """Ten kinds of objects, 32×32 colour (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR10", "cifar-10-batches-py"
    num_classes, in_channels, image_size = 10, 3, 32


class CIFAR100(TorchvisionDataset):
    """A hundred kinds of objects, 32×32 colour (Krizhevsky 2009).

    `root/cifar100/{train,test}/CLASS/*.png` is read if it exists; its classes are numbered by name, as in torchvision.
    """

    torchvision_name, folder = "CIFAR100", "cifar-100-python"
    num_classes, in_channels, image_size = 100, 3, 32

    @property
    def _folders(self) -> Path:
        return self.root / "cifar100"

    @cached_property
    def _parts(self) -> list[ClassFolders]:
        return [ClassFolders(self._folders / part) for part in ("train", "test")]

    def notes(self) -> list[str]:
        return [*note_ignored([path for part in self._parts for path in part.ignored])] if self._folders.is_dir() else []

    def missing(self) -> str:
        return "" if self._folders.is_dir() else super().missing()

    def present(self) -> bool:
        return self._folders.is_dir() or super().present()

    def read(self) -> tuple[RawImages, RawImages]:
        if not self._folders.is_dir():
            return super().read()
        for part in self._parts:
            if len(part.classes) != self.num_classes:
                raise DataUnavailable(
                    f"{part.folder} must hold {self.num_classes} class folders, but holds {len(part.classes)}"
                )
            if problems := list(part.problems()):
                raise DataUnavailable(f"{self._folders}: {'; '.join(problems)}")
        train, test = decode(*(part.files(self.in_channels, self.image_size) for part in self._parts))
        return train, test
