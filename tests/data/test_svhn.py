"""SVHN's Matlab files."""

import hashlib
from io import BytesIO

import numpy as np
import pytest
import torch
from experiments import compose_command

from kdexp.configuration.nodes import build
from kdexp.data import torchvision_sets
from kdexp.data.torchvision_sets import SVHN
from kdexp.errors import DataUnavailable

scipy_io = pytest.importorskip("scipy.io")


def matlab_file(seed, images):
    """A file as it is published: images [32, 32, 3, N], classes [N, 1] from 1 to 10."""
    generator = np.random.default_rng(seed)
    content = BytesIO()
    pixels = generator.integers(256, size=(32, 32, 3, images), dtype=np.uint8)
    classes = (np.arange(images, dtype=np.uint8) % 10 + 1)[:, None]
    scipy_io.savemat(content, {"X": pixels, "y": classes}, do_compression=True)
    return content.getvalue(), pixels, classes


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Both files, as if they were the published ones."""
    made = {name: matlab_file(seed, 20) for seed, name in enumerate(SVHN.digests)}
    for name, (content, *_) in made.items():
        (tmp_path / name).write_bytes(content)
    digests = {name: hashlib.md5(content).hexdigest() for name, (content, *_) in made.items()}
    monkeypatch.setattr(SVHN, "digests", digests)
    return made


def dataset(root, *words):
    config = compose_command(["dataset=svhn", f"dataset.root={root}", "dataset.download=false", *words])
    return build(config["dataset"])


def test_images_and_classes_are_those_of_the_files(published, tmp_path):
    for raw, (_, pixels, classes) in zip(dataset(tmp_path).read(), published.values(), strict=True):
        assert torch.equal(raw.images[3], torch.from_numpy(pixels[..., 3]).permute(2, 0, 1))
        assert raw.labels.tolist() == [number % 10 for number in classes[:, 0].tolist()]
        assert raw.images.is_contiguous()


def test_a_damaged_file_is_not_opened(published, tmp_path):
    (tmp_path / "test_32x32.mat").write_bytes(b"nothing")
    with pytest.raises(DataUnavailable, match=r"test_32x32\.mat is damaged"):
        dataset(tmp_path).read()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    assert "train_32x32.mat" in dataset(tmp_path).missing()
    monkeypatch.setattr(torchvision_sets, "find_spec", lambda name: None)
    assert "pip install scipy" in dataset(tmp_path).missing()
