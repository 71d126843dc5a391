"""A GPU chosen by its number, and memory that several processes share."""

import pytest
import torch

from kdexp.configuration.arguments import misfit
from kdexp.configuration.settings import Device
from kdexp.data import placement
from kdexp.data.placement import AUTOMATIC, choose_memory
from kdexp.device.precision import Precision, device_problem
from kdexp.device.sharing import share_with
from kdexp.experiment.obtain import obtain
from kdexp.teacher import cache


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.parametrize(("name", "good"), [("cuda:1", True), ("cuda:", False), ("cuda:x", False), ("cuda:1 ", False)])
def test_a_gpu_has_a_number(name, good):
    assert misfit(name, Device) == ("" if good else "must be one of auto, cpu, cuda, mps or cuda:NUMBER")


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(two_gpus):
    assert device_problem("cuda:1") == device_problem("cuda") == ""
    assert "here: cpu, cuda, cuda:0, cuda:1 (device=auto picks)" in device_problem("cuda:2")


@pytest.mark.parametrize(
    ("chosen", "in_use", "current"), [("cuda:1", False, [1]), ("cuda", True, [0]), ("cuda", False, []), ("cpu", True, [])]
)
def test_the_chosen_gpu_becomes_the_current_one(monkeypatch, chosen, in_use, current):
    seen = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: in_use)
    monkeypatch.setattr("torch.cuda.set_device", seen.append)
    Precision.pick("auto", torch.device(chosen)).set()
    assert seen == current


def test_processes_share_the_memory_for_outputs_and_images(monkeypatch):
    for module in (cache, placement):
        monkeypatch.setattr(module, "free_memory", lambda _device: 8000)
    monkeypatch.setattr(placement, "available_memory", lambda: 10**6)
    gpu, outputs = torch.device("cuda"), cache.OutputCache()
    alone = outputs.limit(gpu), choose_memory(0, 3000, False, gpu, AUTOMATIC)[0]
    share_with(4, 2)
    try:
        assert (*alone, outputs.limit(gpu)) == (2000, "device", 1000)
        assert choose_memory(0, 3000, False, gpu, AUTOMATIC)[0] == "ram"
    finally:
        share_with(1, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_last_gpu_trains_what_the_first_does(make_experiment):
    last = torch.cuda.device_count() - 1
    keys = [entry.spec.key for entry in obtain(make_experiment("device=cuda"))]
    experiment = make_experiment(f"device=cuda:{last}", "force=true")
    entries = obtain(experiment)
    assert [entry.spec.key for entry in entries] == keys and all(entry.stored for entry in entries)
    assert experiment.data.train.labels.device.index == torch.cuda.current_device() == last
