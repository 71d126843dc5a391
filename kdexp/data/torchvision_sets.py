"""The data sets that torchvision downloads and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdexp.arguments import first_line
from kdexp.data.dataset import DataUnavailable, ImageDataset, RawImages


class TorchvisionDataset(ImageDataset):
    """A torchvision data set under `root`, downloaded (and checked against its md5) unless it is there."""

    torchvision_name: str
    folder: str
    """What torchvision makes under `root`."""

    def __init__(self, *, root: str, download: bool, **shared):
        super().__init__(**shared)
        self.root = Path(root).expanduser()
        self.download = download

    def missing(self) -> str:
        if self.download or (self.root / self.folder).is_dir():
            return ""
        return (
            f"no {self.torchvision_name} in dataset.root={str(self.root)!r} (looked for {self.folder}/); "
            "add dataset.download=true, or dataset.root=FOLDER that holds it"
        )

    def read(self) -> tuple[RawImages, RawImages]:
        from torchvision import datasets

        source = getattr(datasets, self.torchvision_name)
        try:
            train, test = (source(str(self.root), train=part, download=self.download) for part in (True, False))
        except (RuntimeError, OSError) as error:
            what = first_line(error).split(" You can use download")[0]
            raise DataUnavailable(
                f"{self.torchvision_name} in dataset.root={str(self.root)!r} can't be read: {what} "
                "(dataset.download=true fetches it anew; dataset.root=FOLDER names another place)"
            ) from error
        return self._raw(train), self._raw(test)

    def _raw(self, source: Any) -> RawImages:
        pixels = torch.as_tensor(np.asarray(source.data))
        pixels = pixels.unsqueeze(1) if self.in_channels == 1 else pixels.permute(0, 3, 1, 2)
        return RawImages(pixels, torch.as_tensor(np.asarray(source.targets)).long())


class MNIST(TorchvisionDataset):
    """Handwritten digits, 28×28 grey (LeCun et al. 1998)."""

    torchvision_name, folder = "MNIST", "MNIST/raw"
    num_classes, in_channels, image_size = 10, 1, 28


class FashionMNIST(TorchvisionDataset):
    """Clothes, 28×28 grey (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747)."""

    torchvision_name, folder = "FashionMNIST", "FashionMNIST/raw"
    num_classes, in_channels, image_size = 10, 1, 28


class CIFAR10(TorchvisionDataset):
    """Ten kinds of objects, 32×32 colour (Krizhevsky 2009)."""

    torchvision_name, folder = "CIFAR10", "cifar-10-batches-py"
    num_classes, in_channels, image_size = 10, 3, 32


class CIFAR100(TorchvisionDataset):
    """A hundred kinds of objects, 32×32 colour (Krizhevsky 2009).

    `root/cifar100/{train,test}/CLASS/*.png` is read where it exists; its classes are numbered by name, as torchvision's are.
    """

    torchvision_name, folder = "CIFAR100", "cifar-100-python"
    num_classes, in_channels, image_size = 100, 3, 32

    @property
    def _folders(self) -> Path:
        return self.root / "cifar100"

    def missing(self) -> str:
        return "" if self._folders.is_dir() else super().missing()

    def read(self) -> tuple[RawImages, RawImages]:
        if not self._folders.is_dir():
            return super().read()
        return self._read_folder("train"), self._read_folder("test")

    def _read_folder(self, split: str) -> RawImages:
        folder = self._folders / split
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if len(classes) != self.num_classes:
            raise DataUnavailable(f"{folder} must hold {self.num_classes} class folders, but holds {len(classes)}")
        paths = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).glob("*.png"))]
        if empty := sorted(set(range(self.num_classes)) - {label for _, label in paths}):
            raise DataUnavailable(f"{folder / classes[empty[0]]} holds no .png images")
        pixels = np.stack([_read_png(path, self.image_size) for path, _ in paths])
        return RawImages(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([label for _, label in paths]))


def _read_png(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    try:
        pixels = np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise DataUnavailable(f"{path} can't be read as an image") from error
    if pixels.shape[:2] != (size, size):
        raise DataUnavailable(f"{path} has {pixels.shape[1]}×{pixels.shape[0]} pixels, not {size}×{size}")
    return pixels
