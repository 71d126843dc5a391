"""The number of CPU threads that a run uses."""

import os

import pytest
import torch

from kdexp.commands import main
from kdexp.commands.process import SPINS
from kdexp.device import threads


@pytest.fixture(autouse=True)
def four(monkeypatch):
    monkeypatch.setattr(threads, "MOST", 4)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_small_networks_and_batches_take_one_thread(make_experiment):
    run = make_experiment()
    assert run.threads == torch.get_num_threads() == 1 and run.where == "fp32 on cpu, 1 thread"


@pytest.mark.parametrize("large", ["batch_size=1024", "teacher=resnet20"])
def test_one_large_network_or_batch_is_enough_for_all_threads(make_experiment, large):
    run = make_experiment(large)
    assert run.threads == torch.get_num_threads() == 4 and run.where == "fp32 on cpu, 4 threads"


def test_the_configured_number_wins_and_does_not_outlast_its_job(make_experiment):
    assert make_experiment("num_threads=3", "batch_size=1024").threads == torch.get_num_threads() == 3
    make_experiment()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_the_command_limits_how_long_waiting_threads_spin_unless_told_otherwise(monkeypatch, given, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["kdexp", "--version"])
    with pytest.raises(SystemExit):
        main.main()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
