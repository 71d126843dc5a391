"""Folders of tiny images."""

import numpy as np
import torch
from PIL import Image

from kdexp.data.image_folder import ImageFolder

CPU = torch.device("cpu")
GIVEN = {
    "test_fraction": None,
    "image_size": 8,
    "in_channels": 3,
    "val_fraction": 0.0,
    "split_seed": 0,
    "student_fraction": 1.0,
    "mean": None,
    "std": None,
    "crop_padding": 0,
    "resized_crop": None,
    "flip": False,
}


def picture(seed, width=8, height=8, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_classes(folder, classes=("cat", "dog"), images=4, size=8):
    """`images` noisy PNG files per class, all different."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for image in range(images):
            seed = [number, image, *folder.name.encode()]
            picture(seed, size, size).save(folder / name / f"{image:02}.png")


def folder(root, **changed):
    return ImageFolder(root=str(root), **GIVEN | changed)


SMALL = ("teacher=mlp_wide", "student=mlp_small", "dataset.image_size=8", "dataset.in_channels=1", "dataset.val_fraction=0.25")
BRIEF = ("epochs=1", "teacher_epochs=1", "limit_batches=2", "batch_size=4", "device=cpu")
