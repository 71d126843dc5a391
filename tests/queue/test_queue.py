"""The queue of a sweep: each job is one process's, jobs that were cut off are taken again, and the table comes last."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from experiments import COMPOSER, SHORT
from processes import command
from rich.console import Console
from sweeps_to_do import listed_sweep, logs, weights_in

from kdexp.commands import multirun, work
from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import run_job
from kdexp.device.ranks import ENDED, RankLost
from kdexp.errors import SweepLost
from kdexp.experiment.experiment import Experiment
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.queue.job_list import JobList, ListedJob, read_jobs
from kdexp.queue.queue import MOST_DEATHS, Queue
from kdexp.queue.roster import Registration, Tail, live_workers
from kdexp.queue.trained import TrainedHere
from kdexp.store.run_state import runner, state_of, write_state


@pytest.fixture
def listed(tmp_path):
    """A list of three jobs, none of which has started."""
    jobs = tuple(ListedJob(number, (f"seed={number}",), f"00{number}") for number in range(3))
    (tmp_path / "jobs.json").write_text("{}")
    return JobList(tmp_path, jobs)


def started(listed, number, state):
    folder = listed.folder_of(listed.jobs[number])
    folder.mkdir()
    write_state(folder, state)
    (folder / "log.txt").write_text(state)
    return folder


@pytest.fixture
def kdexp_work(call_main, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return lambda *words: call_main(work.main, "kdexp-work", *words, columns=200)


def test_jobs_are_taken_in_order_and_those_that_are_over_are_not(listed):
    started(listed, 1, "failed")
    with Queue(listed) as queue:
        assert [queue.take().number, len(queue.left)] == [0, 3]
        started(listed, 0, "finished")
        assert queue.take().number == 2
        started(listed, 2, "finished")
        assert queue.take() is None and queue.left == []


def test_a_job_is_one_process_s_until_that_dies(listed):
    code = "from pathlib import Path\nfrom kdexp.store.numbered_locks import ByteLocks\n"
    code += f"locks = ByteLocks(Path({str(listed.folder)!r}) / 'claims.lock')\n"
    code += "print(locks.take(0), locks.take(2), flush=True)\ninput()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with Queue(listed) as queue:
        assert other.stdout.readline() == "True True\n"
        assert queue.take().number == 1
        started(listed, 1, "finished")
        assert queue.take() is None and [job.number for job in queue.left] == [0, 2]
        other.kill()
        other.communicate()
        assert queue.take().number == 0


def test_a_job_whose_state_could_not_be_written_is_not_taken_again(listed):
    with Queue(listed) as queue:
        taken = []
        while job := queue.take():
            taken.append(job.number)
            queue.end(job)
    assert taken == [0, 1, 2]


@pytest.mark.parametrize(("state", "name"), [("running", "001.killed-1"), ("interrupted", "001.interrupted-1")])
def test_the_folder_of_a_job_that_was_cut_off_is_moved_aside(listed, state, name):
    started(listed, 0, "finished")
    folder = started(listed, 1, state)
    with Queue(listed) as queue:
        assert queue.take().number == 1
    assert not folder.exists() and (listed.folder / name / "log.txt").read_text() == state


def test_a_job_that_kills_its_processes_is_given_up(listed):
    for _ in range(MOST_DEATHS):
        assert state_of(started(listed, 0, "running")) == "running"
        with Queue(listed) as queue:
            job = queue.take()
    assert job.number == 1
    status = json.loads((listed.folder / "000" / "status.json").read_text())
    assert status["state"] == "failed" and "was killed 3 times" in status["reason"]


def test_a_lost_folder_ends_the_queue(listed):
    with Queue(listed) as queue:
        shutil.rmtree(listed.folder)
        with pytest.raises(SweepLost, match="has disappeared"):
            queue.take()


def test_a_system_without_locks_on_parts_of_files_has_leases(listed, monkeypatch):
    monkeypatch.setattr("kdexp.store.locks.fcntl", None)
    with Queue(listed) as queue, Queue(listed) as other:
        assert [queue.take().number, other.take().number] == [0, 1]


def test_others_see_what_a_worker_does_and_says(listed):
    with Registration(listed.folder, "7_1") as worker:
        tail = Tail(listed.folder)
        worker.note(job=2, epoch=3)
        worker.note(soon=False, epoch=4)
        worker.tell("1/3  seed=0: teacher 97.00", 0)
        (state,) = live_workers(listed.folder)
        assert (state.job, state.epoch, state.starter) == (2, 3, "7_1")
        assert (
            runner(listed.folder)
            == state.process
            == f"process {os.getpid()} on {state.name.rpartition('-')[0].rpartition('-')[0]}"
        )
        assert [line[1:] for line in tail.lines()] == [(0, "1/3  seed=0: teacher 97.00")]
        assert tail.lines() == []
    assert live_workers(listed.folder) == [] and runner(listed.folder) == ""


def test_learners_trained_by_force_are_known_to_all_workers(tmp_path):
    one, other = TrainedHere(tmp_path), TrainedHere(tmp_path)
    one |= {"a" * 16}
    assert "a" * 16 in other and "b" * 16 not in other and len(other) == 1


def test_the_list_says_all_that_another_process_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = listed_sweep("out", "seed=0,1", "force=true")
    read = read_jobs(written.folder)
    assert [job.overrides[-2] for job in read.jobs] == ["seed=0", "seed=1"]
    assert read.title(read.jobs[1]) == "2/2  seed=1"
    assert (read.cwd, read.stores, read.forced) == (str(tmp_path), (f"{tmp_path}/out/store",), True)
    assert read.layers == written.layers and read.folder == tmp_path / written.folder


def test_a_folder_whose_name_is_not_utf_8_leaves_the_list_readable(tmp_path, kdexp_work, monkeypatch):
    place = tmp_path / "caf\udce9"
    place.mkdir()
    monkeypatch.chdir(place)
    folder = listed_sweep(tmp_path / "out", "seed=0,1").folder
    assert len(read_jobs(folder).jobs) == 2
    code, printed = kdexp_work(folder)
    assert code == 2 and "names no folder to work in" in printed


@pytest.mark.parametrize("gone", ["cwd", "stores", "config_dir"])
def test_a_machine_with_another_disk_is_refused(tmp_path, kdexp_work, gone):
    folder = listed_sweep(tmp_path / "out", "seed=0,1").folder
    content = json.loads((folder / "jobs.json").read_text())
    content[gone] = ["/nowhere/x"] if gone == "stores" else "/nowhere/x"
    (folder / "jobs.json").write_text(json.dumps(content))
    code, printed = kdexp_work(folder)
    assert code == 2 and "this machine has no /nowhere/x, " in printed and "need the same disk" in printed


@pytest.mark.parametrize(
    ("content", "words"), [(None, "has no jobs.json"), ('{"jobs": []}', "lists no jobs"), ('{"jobs": [', "is damaged")]
)
def test_what_is_no_sweep_is_refused(tmp_path, kdexp_work, content, words):
    if content:
        (tmp_path / "jobs.json").write_text(content)
    code, printed = kdexp_work(tmp_path)
    assert code == 2 and words in printed
    assert kdexp_work(tmp_path, "--workers", "0")[0] == 2


@pytest.mark.slow
def test_a_worker_ends_with_the_table_and_says_that_a_job_failed(tmp_path, kdexp_work):
    listed = listed_sweep(tmp_path / "out", "optimizer=sgd", "optimizer@teacher_optimizer=adam", "optimizer.lr=0.05,1e30")
    code, printed = kdexp_work(listed.folder)
    assert code == 3 and "2/2  optimizer.lr=1e+30: failed: " in printed and "95 % interval" in printed
    assert (listed.folder / "sweep.json").exists()
    code, printed = kdexp_work(listed.folder)
    assert code == 3 and "2/2" not in printed, "what is over is not run again"


@pytest.mark.slow
def test_workers_share_the_jobs_and_train_what_one_process_trains(tmp_path):
    words = ("distillation.temperature=1,4", "seed=0,1")
    lists = {name: listed_sweep(tmp_path / name, *words, "force=true") for name in ("alone", "together")}
    both = [command(tmp_path, [str(lists["together"].folder)], "work", f"{name}.txt") for name in "ab"]
    assert [process.join(60) or process.exitcode for process in both] == [0, 0]
    lone = command(tmp_path, [str(lists["alone"].folder)], "work")
    lone.join()
    assert weights_in(tmp_path / "alone" / "store") == weights_in(tmp_path / "together" / "store")
    together = lists["together"].folder
    trained = [path.name for path in (together / "trained").iterdir()]
    assert len(trained) == 1 + 2 + 4 and logs(together).count("training teacher") == 1
    tables = [(listed.folder / "sweep.csv").read_text() for listed in lists.values()]
    assert tables[0] == tables[1]
    printed = [(tmp_path / f"{name}.txt").read_text() for name in "ab"]
    assert any("95 % interval" in text for text in printed) and sum(text.count("/4  ") for text in printed) == 4


@pytest.mark.slow
def test_a_worker_helps_a_sweep_that_runs_in_one_process(tmp_path):
    words = ["-m", *SHORT, "seed=0,1,2", "teacher_epochs=40", "limit_batches=null"]
    sweep = command(tmp_path, words)
    while not (found := list(tmp_path.glob("outputs/sweeps/*/000/status.json"))):
        assert sweep.is_alive()
    folder = found[0].parent.parent
    helper = command(tmp_path, [str(folder)], "work", "helper.txt")
    for process in (sweep, helper):
        process.join(60)
    assert (sweep.exitcode, helper.exitcode) == (0, 0)
    lines = [(tmp_path / name).read_text() for name in ("printed.txt", "helper.txt")]
    assert "95 % interval" in lines[0] and "/3  " in lines[0] + lines[1]
    assert logs(folder).count("training teacher") == 1 and len(weights_in(tmp_path / "outputs" / "store")) == 7


@pytest.mark.parametrize(
    ("place", "error", "state"),
    [
        ("make_ready", KeyboardInterrupt, "interrupted"),
        ("obtain", KeyboardInterrupt, "interrupted"),
        ("obtain", RankLost, "killed"),
    ],
)
def test_only_deaths_are_counted_against_a_job(tmp_path, monkeypatch, place, error, state):
    def end(*_):
        raise error

    monkeypatch.setattr(*((Experiment, place) if place == "make_ready" else (multirun, place)), end)
    listed = listed_sweep(tmp_path, "seed=0")
    job, folder = PlannedJob(0, listed.jobs[0].overrides, COMPOSER.compose(listed.jobs[0].overrides)), listed.folder / "000"
    with pytest.raises(error):
        run_job(job, folder, Journal(Console(file=io.StringIO()), quiet=True), Session())
    assert state_of(folder) == state


def test_the_state_of_a_worker_of_a_newer_version_is_read(tmp_path):
    with Registration(tmp_path) as worker:
        file = tmp_path / "workers" / f"{worker.state.name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "job": 3, "temperature": 40}))
        assert [state.job for state in live_workers(tmp_path)] == [3]


def test_a_worker_that_can_not_claim_jobs_says_so_to_all(tmp_path, kdexp_work):
    folder = listed_sweep(tmp_path / "out", "seed=0,1").folder
    (folder / "workers").mkdir()
    (folder / "claims.lock").mkdir()
    tail = Tail(folder)
    code, printed = kdexp_work(folder)
    assert code == 3 and "claims.lock" in printed and "Traceback" not in printed
    assert ["claims.lock" in line.text for line in tail.lines()] == [True]


def test_a_worker_whose_other_rank_died_says_so_to_all(tmp_path, kdexp_work, monkeypatch):
    def end(*_):
        raise RankLost(ENDED)

    monkeypatch.setattr("kdexp.commands.working.work", end)
    folder = listed_sweep(tmp_path / "out", "seed=0,1").folder
    tail = Tail(folder)
    code, printed = kdexp_work(folder)
    (line,) = tail.lines()
    assert code == 3 and ENDED in printed and ENDED in line.text


def test_a_folder_that_may_not_be_entered_is_refused(tmp_path, kdexp_work, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    folder = listed_sweep(tmp_path / "out", "seed=0,1").folder
    monkeypatch.setattr("os.chdir", deny)
    code, printed = kdexp_work(folder)
    assert code == 2 and "Permission denied" in printed
