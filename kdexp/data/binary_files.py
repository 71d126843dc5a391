"""The binary files in which MNIST, CIFAR and SVHN are published, decoded from bytes that were verified before."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from kdexp.data.images import RawImages

IDX_UINT8 = b"\0\0\x08"
"""First bytes of an IDX file of unsigned bytes; the next one is the number of dimensions."""


def idx_tensor(content: bytes) -> Tensor:
    """Returns the tensor uint8 in an IDX file (LeCun 1998); raises `ValueError` for anything else."""
    if content[:3] != IDX_UINT8:
        raise ValueError("not an IDX file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(values.reshape(shape).copy())


def cifar_images(batches: Iterable[bytes], labels: str, size: int = 32) -> RawImages:
    """Returns the colour images in CIFAR's pickled batches, whose class numbers are under the key `labels`.

    Unpickling executes what a file says: the bytes must be verified.
    """
    # Python 2 wrote these files, and its strings hold the pixels: as text they would be decoded and encoded again.
    read = [pickle.loads(content, encoding="bytes") for content in batches]
    pixels = np.concatenate([batch[b"data"] for batch in read]).reshape(-1, 3, size, size)
    numbers = [number for batch in read for number in batch[labels.encode()]]
    return RawImages(torch.from_numpy(pixels), torch.tensor(numbers))


def svhn_images(content: bytes) -> RawImages:
    """Returns the colour images in a Matlab file of SVHN, where the digit 0 is called class 10."""
    from scipy.io import loadmat  # no dependency of anything else

    found = loadmat(BytesIO(content), variable_names=["X", "y"])
    pixels = torch.from_numpy(np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1)))
    return RawImages(pixels, torch.from_numpy(found["y"].astype(np.int64).reshape(-1)) % 10)
