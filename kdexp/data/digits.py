"""The embedded digits: 1,797 images of 8×8 with a fixed stratified split into 1,000 training and 797 test images."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from kdexp.data.dataset import ImageDataset
from kdexp.data.images import RawImages
from kdexp.files import stamp


class Digits(ImageDataset):
    """UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998). `digits.md` has the licence."""

    num_classes = 10
    in_channels = 1
    image_size = 8

    def stamp(self) -> str:
        return stamp([Path(__file__).with_suffix(".npz")])

    def read(self) -> tuple[RawImages, RawImages]:
        with (files("kdexp.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
            train, test = (
                RawImages(
                    torch.from_numpy(arrays[f"{split}_images"]).unsqueeze(1), torch.from_numpy(arrays[f"{split}_labels"]).long()
                )
                for split in ("train", "test")
            )
        return train, test
