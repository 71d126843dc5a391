"""Published data sets: torchvision downloads them."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from kdexp.data.binary_files import cifar_images, idx_tensor, svhn_images
from kdexp.data.class_folders import ClassFolders, note_ignored
from kdexp.data.dataset import ImageDataset
from kdexp.data.decoding import decode
from kdexp.data.images import RawImages
from kdexp.data.layout import holds_images, not_a_folder
from kdexp.errors import DataUnavailable, first_line
from kdexp.files import at_home, reason, stamp


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
    """A data set under `root`, where torchvision downloads it to. Files are read once, and verified before they are decoded."""

    torchvision_name: str
    folder: str
    """The folder that torchvision makes under `root`."""
    digests: Mapping[str, str]
    """Names and digests of the published files in `folder`."""
    algorithm = "sha256"
    """What the digests are computed by."""
    parts: Sequence[Mapping[str, object]] = ({"train": False},)
    """Arguments of torchvision's class: one set for each part that it downloads separately."""

    def __init__(self, *, root: str, download: bool, **shared):
        super().__init__(**shared)
        self.root = at_home(root)
        self.download = download

    def missing(self) -> str:
        if problem := self._other_root():
            return f"dataset.root={str(self.root)!r} {problem}"
        if self.download:
            return ""
        if (self.root / self.folder).is_dir():
            absent = self._absent()
            return str(self._without(absent[0])) if absent else ""
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
        return not self._absent()

    def stamp(self) -> str:
        return stamp(self.root / self.folder / name for name in self.digests)

    def read(self) -> tuple[RawImages, RawImages]:
        if absent := self._absent():
            self._fetch(absent[0])
        return self.decoded()

    def decoded(self) -> tuple[RawImages, RawImages]:
        """Returns the training and the test images in the published files."""
        raise NotImplementedError

    def content(self, name: str) -> bytes:
        """Returns the content of a published file; raises `DataUnavailable` if it is not the published one."""
        try:
            content = (self.root / self.folder / name).read_bytes()
        except OSError as error:
            fix = "dataset.root=FOLDER names another place"
            raise self._unavailable(f"{self.folder}/{name}: {reason(error)}", fix) from error
        if hashlib.new(self.algorithm, content).hexdigest() != self.digests[name]:
            fix = "delete it, and dataset.download=true fetches it again"
            what = f"{self.folder}/{name} is damaged, its {self.algorithm} is not the published file's"
            raise self._unavailable(what, fix)
        return content

    def _absent(self) -> list[str]:
        """Returns the names of published files that are not there."""
        return [name for name in self.digests if not (self.root / self.folder / name).is_file()]

    def _fetch(self, absent: str) -> None:
        """Has torchvision download the files; `absent` is one that is missing."""
        if not self.download:
            raise self._without(absent)
        from torchvision import datasets  # takes a second to import

        try:
            with extracting_safely():
                for part in self.parts:
                    getattr(datasets, self.torchvision_name)(str(self.root), download=True, **part)
        except (RuntimeError, OSError, tarfile.TarError) as error:
            raise self._unavailable(first_line(error), "dataset.root=FOLDER names another place") from error

    def _without(self, absent: str) -> DataUnavailable:
        fix = "dataset.download=true fetches it; dataset.root=FOLDER names another place"
        return self._unavailable(f"there is no {self.folder}/{absent}", fix)

    def _unavailable(self, what: str, fix: str) -> DataUnavailable:
        return DataUnavailable(f"{self.torchvision_name} in dataset.root={str(self.root)!r} can't be read: {what} ({fix})")


class IdxDataset(TorchvisionDataset):
    """Grey images in MNIST's file format."""

    num_classes, in_channels, image_size = 10, 1, 28

    def decoded(self) -> tuple[RawImages, RawImages]:
        return self._part("train"), self._part("t10k")

    def _part(self, name: str) -> RawImages:
        images, labels = (idx_tensor(self.content(f"{name}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
        return RawImages(images.unsqueeze(1), labels.long())


class CIFARDataset(TorchvisionDataset):
    """Colour images in CIFAR's file format."""

    in_channels, image_size = 3, 32
    batches: tuple[Sequence[str], Sequence[str]]
    """Names of the files of training and test images."""
    labels_key: str
    """The key of the class numbers."""

    def decoded(self) -> tuple[RawImages, RawImages]:
        train, test = (cifar_images(map(self.content, names), self.labels_key, self.image_size) for names in self.batches)
        return train, test


class MNIST(IdxDataset):
    """Handwritten digits, 28×28 grey (LeCun et al. 1998)."""

    torchvision_name, folder = "MNIST", "MNIST/raw"
    digests = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }


class FashionMNIST(IdxDataset):
    """Clothes, 28×28 grey (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747)."""

    torchvision_name, folder = "FashionMNIST", "FashionMNIST/raw"
    digests = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }


class CIFAR10(CIFARDataset):
    """Ten kinds of objects, 32×32 colour (Krizhevsky 2009)."""

    torchvision_name, folder, num_classes = "CIFAR10", "cifar-10-batches-py", 10
    batches = [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]
    labels_key = "labels"
    digests = {
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
    }


class SVHN(TorchvisionDataset):
    """House numbers, 32×32 colour (Netzer et al. 2011), without the additional training images."""

    torchvision_name, folder, num_classes, in_channels, image_size = "SVHN", ".", 10, 3, 32
    parts = ({"split": "train"}, {"split": "test"})
    algorithm = "md5"
    digests = {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }

    def missing(self) -> str:
        if find_spec("scipy") is None:
            return "SVHN's files are Matlab's, which scipy reads, and it is not installed: pip install scipy"
        return super().missing()

    def decoded(self) -> tuple[RawImages, RawImages]:
        train, test = (svhn_images(self.content(name)) for name in self.digests)
        return train, test


class CIFAR100(CIFARDataset):
    """A hundred kinds of objects, 32×32 colour (Krizhevsky 2009).

    `root/cifar100/{train,test}/CLASS/*.png` is read if it exists; its classes are numbered by name, as in torchvision.
    """

    torchvision_name, folder, num_classes = "CIFAR100", "cifar-100-python", 100
    batches = ["train"], ["test"]
    labels_key = "fine_labels"
    algorithm = "md5"
    digests = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}

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

    def stamp(self) -> str:
        if not self._folders.is_dir():
            return super().stamp()
        return " ".join(part.files(self.in_channels, self.image_size).stamp() for part in self._parts)

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
