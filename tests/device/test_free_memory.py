"""Free memory of a GPU, from what PyTorch says about it."""

import pytest
import torch

from kdexp.device.memory import free_memory, in_halves


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "share", "expected"),
    [
        (60, 30, 10, 1.0, 80),  # what is free on the device, and what PyTorch has reserved and does not use
        (60, 30, 10, 0.5, 40),  # 50 of 100 may be reserved, 10 are allocated
        (15, 30, 10, 0.5, 35),  # others have the rest of the device
        (60, 30, 10, 0.2, 20),  # the limit came after the reservation
    ],
)
def test_free_memory_of_a_gpu(monkeypatch, free, reserved, allocated, share, expected):
    found = {
        "mem_get_info": (free, 100),
        "memory_reserved": reserved,
        "memory_allocated": allocated,
        "get_per_process_memory_fraction": share,
    }
    for name, value in found.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    assert free_memory(torch.device("cuda")) == expected


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_the_limit_of_a_process_is_that_of_its_gpu(monkeypatch, device, number):
    for name, value in {"mem_get_info": (100, 100), "memory_reserved": 0, "memory_allocated": 0, "current_device": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_device, value=value: value)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.memory._C, "_cuda_getMemoryFraction", lambda index: {number: 0.5}[index], raising=False)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", torch.cuda.memory.get_per_process_memory_fraction)
    assert free_memory(torch.device(device)) == 50


def test_images_that_do_not_fit_are_halved():
    sizes = []

    def network(image):
        sizes.append(len(image))
        if len(image) > 2:
            raise torch.OutOfMemoryError
        return 2 * image

    image = torch.arange(7.0)
    assert torch.equal(in_halves(network, image), 2 * image)
    assert sizes == [7, 4, 2, 2, 3, 2, 1]


def test_a_single_image_that_does_not_fit_is_an_error():
    def network(image):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_halves(network, torch.zeros(3))
