"""Workers on a file system without locks: leases say who has a job, and end with the time of those who died."""

import fcntl
import os
import re
import signal
from functools import partial

import pytest
from lockless import lease_elsewhere, lockless, refuse
from processes import command
from sweeps_to_do import listed_sweep, logs, wait_for, weights_in

from kdexp.commands.multirun import jobs_of
from kdexp.queue.job_list import JobList, ListedJob
from kdexp.queue.queue import Queue
from kdexp.queue.roster import live_workers
from kdexp.store import locks


@pytest.fixture
def no_locks(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_a_worker_stays_until_it_would_have_noticed_that_another_died(tmp_path, no_locks, monkeypatch):
    monkeypatch.setattr(locks, "LEASE", 0.3)
    (tmp_path / "jobs.json").write_text("{}")
    with Queue(JobList(tmp_path, (ListedJob(0, ("seed=0",), "000"),))) as queue:
        lease_elsewhere(tmp_path / "claims.lock.0")
        assert queue.take() is None
        assert [job.number for job in jobs_of(queue, wait=False)] == [0]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_worker_of_another_machine_goes_on_once_a_lease_is_over(tmp_path, no_locks):
    words = ("teacher_epochs=400", "seed=0,1")
    listed = {name: listed_sweep(tmp_path / name, *words) for name in ("whole", "killed")}
    folder, screens = listed["killed"].folder, {name: tmp_path / f"{name}.txt" for name in ("here", "there")}
    both = {name: command(tmp_path, [str(folder)], "work", f"{name}.txt", partial(lockless, name, 4.0)) for name in screens}
    wait_for(lambda: any(state.epoch > 1 for state in live_workers(folder)), 120)
    (trainer,) = (state.process for state in live_workers(folder) if state.epoch)
    number, dead = re.fullmatch(r"process (\d+) on (\w+)", trainer).groups()
    (other,) = both.keys() - {dead}
    os.kill(int(number), signal.SIGKILL)
    both[other].join()
    printed, log = screens[other].read_text(), logs(folder)
    assert both[other].exitcode == 0 and "95 % interval" in printed, printed
    assert f"waiting for process {number} on {dead}, which trains the teacher" in log
    assert log.count("training teacher: ") == 2 and log.count("teacher: resuming after epoch ") == 1
    assert log.count("training baseline and distilled: ") == 2, "nothing else is trained twice"
    command(tmp_path, [str(listed["whole"].folder)], "work", "whole.txt").join()
    assert weights_in(tmp_path / "killed" / "store") == weights_in(tmp_path / "whole" / "store")
    assert (folder / "sweep.csv").read_text() == (listed["whole"].folder / "sweep.csv").read_text()
