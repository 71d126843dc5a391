"""The binary files of MNIST and CIFAR: each read once, with the pixels and labels that torchvision reads."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from kdexp.data.binary_files import idx_tensor
from kdexp.data.torchvision_sets import CIFAR10, CIFAR100
from kdexp.errors import DataUnavailable

COLOUR = {
    "val_fraction": 0.25,
    "split_seed": 0,
    "student_fraction": 1.0,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "crop_padding": 0,
    "flip": False,
}


def as_by_python_2(content):
    """A pickle whose texts became the byte strings of Python 2."""
    return re.sub(rb"X(.)\0\0\0(?=(?:data|[a-z_]*labels)q)", lambda found: b"U" + found[1], content)


@pytest.fixture(params=[(CIFAR10, datasets.CIFAR10, "labels"), (CIFAR100, datasets.CIFAR100, "fine_labels")])
def cifar(request, tmp_path, monkeypatch):
    """Three images per file in CIFAR's format, pickled as by Python 2; and the same files as torchvision reads them."""
    family, theirs, key = request.param
    pixels, folder = np.random.default_rng(0), tmp_path / family.folder
    folder.mkdir()
    for number, name in enumerate(family.digests):
        batch = {"data": pixels.integers(0, 256, (3, 3072), dtype=np.uint8), key: [number, 1, 2], "coarse_labels": [7] * 3}
        content = as_by_python_2(pickle.dumps(batch, protocol=2))
        (folder / name).write_bytes(content)
        monkeypatch.setitem(family.digests, name, hashlib.new(family.algorithm, content).hexdigest())
    monkeypatch.setattr(theirs, "_check_integrity", lambda self: True)
    monkeypatch.setattr(theirs, "_load_meta", lambda self: None)
    return family(**COLOUR, root=str(tmp_path), download=False), theirs


def test_cifars_files_are_read_as_torchvision_reads_them(cifar):
    ours, theirs = cifar
    for train, part in zip((True, False), ours.read(), strict=True):
        source = theirs(str(ours.root), train=train)
        assert torch.equal(part.images, torch.from_numpy(source.data).permute(0, 3, 1, 2)) and part.images.is_contiguous()
        assert part.labels.tolist() == source.targets and part.labels.dtype == torch.int64


def test_every_published_file_is_read_once(cifar, monkeypatch):
    ours, _ = cifar
    read, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or real(path))
    ours.read()
    assert sorted(read) == sorted(ours.digests)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"!"])
def test_a_damaged_batch_is_named_and_not_unpickled(cifar, monkeypatch, damage):
    ours, _ = cifar
    name, unpickled, real = list(ours.digests)[-1], [], pickle.loads
    monkeypatch.setattr(pickle, "loads", lambda content, **how: unpickled.append(content) or real(content, **how))
    path = ours.root / ours.folder / name
    path.write_bytes(damage(path.read_bytes()))
    what = f"{ours.folder}/{name} is damaged, its {ours.algorithm} is not the published file's"
    for ours.download in (True, False):
        with pytest.raises(DataUnavailable, match=f"{what} .delete it, and dataset.download=true fetches it again"):
            ours.read()
    assert path.read_bytes() not in unpickled


def test_an_idx_file_of_other_numbers_is_refused():
    assert torch.equal(idx_tensor(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 5, 6])), torch.tensor([[5, 6]], dtype=torch.uint8))
    with pytest.raises(ValueError, match="not an IDX file"):
        idx_tensor(bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]))
