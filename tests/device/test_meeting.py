"""Where ranks meet, and which of them a process is."""

import json
import os
import re
import signal
import subprocess
import threading
from datetime import timedelta

import pytest
import torch

from kdexp.commands.rank import follow
from kdexp.device import meeting, rank_plan
from kdexp.device.meeting import NotMet, meet_at, remove_abandoned
from kdexp.device.rank_plan import RankPlan, plan_ranks, read_environment, started_ranks
from kdexp.device.ranks import RankLost
from kdexp.experiment import other_ranks

CPU = torch.device("cpu")
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}


@pytest.fixture
def environment(monkeypatch):
    """Starts this process as torchrun or srun would with these variables."""
    monkeypatch.setattr(rank_plan, "_started", RankPlan())

    def start(**variables):
        for name in ("TORCHELASTIC_RUN_ID", "SLURM_RESTART_COUNT", *STEP):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return read_environment()

    return start


def test_the_environment_says_which_rank_a_process_is(environment):
    started = environment(**STEP)
    assert started == RankPlan(3, 2, 0, ".ranks_7_0_1") == plan_ranks("auto", CPU) and started_ranks() == 3
    assert environment(**STEP, SLURM_RESTART_COUNT="2").meeting == ".ranks_7_2_1", "a job that runs again meets elsewhere"
    assert plan_ranks(2, CPU) == RankPlan(2)
    assert environment(TORCHELASTIC_RUN_ID="x", WORLD_SIZE="4", RANK="1", LOCAL_RANK="1") == RankPlan(4, 1, 1, "env://")
    assert environment(**{**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == RankPlan() == plan_ranks("auto", CPU)


def test_a_worker_does_not_read_the_environment(environment, monkeypatch):
    environment()
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert plan_ranks("auto", CPU) == RankPlan()


def test_ranks_meet_at_a_file_that_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(meeting, "CALL", timedelta(seconds=0.3))
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    file, met = tmp_path / ".ranks_7_0_0", {}
    file.write_text(json.dumps({"host": "localhost", "port": 9, "process": "process 1 on elsewhere"}))
    other = threading.Thread(target=lambda: met.update({1: meet_at(file, 1, 2)}))
    other.start()
    met[0] = meet_at(file, 0, 2)
    other.join()
    met[0].set("x", "y")
    assert met[1].get("x") == b"y" and list(tmp_path.iterdir()) == []


def test_a_rank_that_does_not_come_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(meeting, "COMING", timedelta(seconds=0.3))
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    with pytest.raises(NotMet, match="rank 1 of 3 has not started within 0.005 minutes"):
        meet_at(tmp_path / "out" / ".ranks_7_0_0", 0, 3)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(NotMet, match=re.escape("ranks_7_0_0 is not there; do all nodes have the same disk there?")):
        meet_at(tmp_path / ".ranks_7_0_0", 1, 3)


def test_what_killed_processes_left_is_removed(tmp_path):
    names = {"mine": os.getpid(), "dead": 2**22 + 1}
    here = meeting.Process.this().host
    for name, number in names.items():
        (tmp_path / f".ranks_{name}").write_text(json.dumps({"process": f"process {number} on {here}"}))
    for name, age in {"new": 0, "old": 2 * 86_400}.items():
        path = tmp_path / f".ranks_{name}"
        path.write_text('{"process": "process 7 on elsewhere"}')
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ranks_mine", ".ranks_new"]


@pytest.mark.parametrize(
    ("error", "raised"), [(NotMet("rank 1 of 2 has not started"), RankLost), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_ranks_that_do_not_come_are_ended(monkeypatch, error, raised):
    def wait(*_):
        raise error

    started = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **named: started.append(real(["sleep", "60"])) or started[-1])
    monkeypatch.setattr(other_ranks, "wait_for_all", wait)
    others = other_ranks.OtherRanks()
    with pytest.raises(raised):
        others.start(RankPlan(3), CPU)
    assert [process.poll() is not None for process in started] == [True, True]
    others.end()


def test_a_rank_that_can_not_join_is_named(capsys):
    def join():
        raise RuntimeError("no route to host")

    handler = signal.getsignal(signal.SIGINT)
    try:
        assert follow(join, 3) == 3
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "rank 3 failed: RuntimeError: no route to host" in capsys.readouterr().err
