"""Searches left to workers: the search of one process with as many trials at a time, whoever dies in between."""

import io
import json
import os
import re
import signal

import pytest
from experiments import COMPOSER, SHORT
from processes import command
from rich.console import Console
from searches import ALPHA, SEEDS, planned, run_search, trials_in
from sweeps_to_do import logs, wait_for

from kdexp.commands import crews, working_search
from kdexp.commands.by_workers import Detached, run_by_workers
from kdexp.commands.command import read_command
from kdexp.commands.search import begin_search, conclude, find_search
from kdexp.commands.search_trials import SearchStopped
from kdexp.commands.working_search import run_trials
from kdexp.configuration.flags import read_flags
from kdexp.errors import NotHere
from kdexp.experiment.journal import Journal
from kdexp.experiment.session import Session
from kdexp.queue.job_list import SHIPPED, read_jobs
from kdexp.queue.roster import Registration, live_workers
from kdexp.search.trial import FAILED, FINISHED
from kdexp.search.trials import Trials
from kdexp.search.watched import SearchWork
from kdexp.store.run_state import write_state

TWO = ("search.trials=3", "search.parallel=2", ALPHA)
LOCAL = ("hydra/launcher=local", "hydra.launcher.workers=2")


def begun(folder, *words):
    """A search that is left to workers, none of whom has started."""
    plan = planned(f"output_dir={folder}", *SHORT, *SEEDS, *words)
    return begin_search(plan, ["search"], SHIPPED, by_workers=True), plan


def workers(place, listed):
    """Two processes that take trials and jobs of a search."""
    return [command(place, [str(listed.folder)], "work", f"{name}.txt") for name in "ab"]


def trainer(folder):
    """The number of a process that trains, once there is one."""
    wait_for(lambda: any(state.epoch for state in live_workers(folder)), 120)
    return next(int(re.search(r"\d+", state.process)[0]) for state in live_workers(folder) if state.epoch)


@pytest.mark.slow
def test_two_workers_make_the_search_of_one_process(tmp_path):
    words = ("search=grid", "search.parallel=2", "distillation=kd,none", "optimizer=sgd", "optimizer.lr=1e20,0.1")
    words += ("teacher_optimizer.lr=0.1",)
    listed, plan = begun(tmp_path / "together", *words)
    Trials.read(listed.folder / "search.journal").allow(2)
    both = workers(tmp_path, listed)
    whole, _ = run_search(tmp_path / "alone", *words)
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    trials = trials_in(listed.folder)
    assert trials == trials_in(whole)
    assert [(trial.method, trial.state) for trial in trials] == [
        (method, state) for state in (FAILED, FINISHED) for method in ("kd", "none")
    ]
    assert sorted(path.name for path in (listed.folder / "trials").glob("0*")) == ["000-0", "001-0"] + [
        f"00{number}-{seed}" for number in (2, 3) for seed in (0, 1)
    ]
    printed = [(tmp_path / f"{name}.txt").read_text() for name in "ab"]
    assert any("vs base" in text for text in printed), "the last worker prints the table"
    assert sorted(re.findall(r"^trial (\d)/4 ", "".join(printed), re.MULTILINE)) == list("1234")
    finals = [[job.overrides[1:] for job in read_jobs(folder).jobs] for folder in (listed.folder, whole)]
    assert (listed.folder / "sweep.csv").exists() and finals[0] == finals[1]
    assert (listed.folder / "search.csv").read_text() == (whole / "search.csv").read_text()
    assert find_search(plan).folder == listed.folder, "no command has shown the table"


@pytest.mark.slow
def test_another_worker_goes_on_with_the_trial_of_one_that_is_killed(tmp_path):
    words = ("search=random", "search.trials=2", "search.parallel=2", ALPHA, "teacher_epochs=30", "limit_batches=null")
    listed, _ = begun(tmp_path / "killed", *words)
    Trials.read(listed.folder / "search.journal").allow(2)
    both = workers(tmp_path, listed)
    number = trainer(listed.folder)
    wait_for(lambda: list((tmp_path / "killed" / "store" / "learner").glob("*.progress")))
    os.kill(number, signal.SIGKILL)
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [-9, 0]
    assert [trial.state for trial in trials_in(listed.folder)] == [FINISHED] * 2
    whole, _ = run_search(tmp_path / "whole", *words)
    assert trials_in(listed.folder) == trials_in(whole)
    assert re.search("teacher: resuming after epoch [1-9]", logs(listed.folder / "trials"))
    assert len(list((listed.folder / "trials").glob("*_2"))) == 1


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_command_comes_back_to_its_search(tmp_path):
    words = ["search=random", "hydra/launcher=local", *SEEDS, "search.trials=2", ALPHA, *SHORT, "teacher_epochs=150"]
    client = command(tmp_path, [*words, "hydra.launcher.workers=1"])
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/jobs.json")), 120)
    folder = next(tmp_path.glob("outputs/sweeps/*/jobs.json")).parent
    trainer(folder)
    client.kill()
    wait_for(lambda: not live_workers(folder), 120)
    assert json.loads((folder / "trials" / "000-0" / "status.json").read_text())["state"] == "interrupted"
    again = command(tmp_path, [*words, "hydra.launcher.workers=2"], printed="again.txt")
    again.join()
    printed = (tmp_path / "again.txt").read_text()
    assert again.exitcode == 0, printed
    assert len(list(tmp_path.glob("outputs/sweeps/*/"))) == 1 and "goes on after 0 of 2 trials" in printed
    before, after = printed.split("final training with seed 7")
    assert len(re.findall(r"^trial \d/2  .*: validation ", before, re.MULTILINE)) == 2
    assert "distilled" not in before and "Search (random): kd 2 trials" in after
    trials = Trials.read(folder / "search.journal")
    assert trials.concluded and trials.parallel == 2


class Idle:
    """A crew that starts nobody."""

    detaches, over = "they go on", True
    ticks: list = []

    def __init__(self, folder, plan, *rest):
        self.folder = folder

    def tick(self, left, live):
        self.ticks.append(left)
        return []

    def stop(self):
        pass

    leave = stop


@pytest.fixture
def left(tmp_path, monkeypatch):
    """Leaves a search to nobody; returns what is printed, and the error that ends it."""

    def leave(*words):
        monkeypatch.setattr(crews, "LocalCrew", Idle)
        monkeypatch.setattr(crews, "SlurmCrew", Idle)
        monkeypatch.setattr(crews, "missing_for_slurm", lambda: "")
        Idle.ticks = []
        typed = ["search=random", *SHORT, *SEEDS, *TWO[:1], ALPHA, f"output_dir={tmp_path}", *words]
        screen = io.StringIO()
        with pytest.raises((SearchStopped, Detached)) as stop:
            run_by_workers(read_command(read_flags(typed), COMPOSER), typed, SHIPPED, Console(file=screen, width=200))
        return screen.getvalue(), stop.value

    return leave


def folder_in(tmp_path):
    (journal,) = tmp_path.glob("sweeps/*/search.journal")
    return journal.parent


def test_without_workers_the_command_says_how_to_go_on(tmp_path, left):
    _, stop = left(*LOCAL)
    assert str(stop) == "no worker is left, but 3 trials; the same command goes on with them"
    folder = folder_in(tmp_path)
    assert Trials.read(folder / "search.journal").parallel == 2 and read_jobs(folder).by_workers
    printed, _ = left("hydra/launcher=local", "hydra.launcher.workers=3")
    assert f"search folder: {folder}, 3 trials; compared on validation images with seeds 0, 1" in printed
    assert Trials.read(folder / "search.journal").parallel == 3, "the same search with more workers"


def test_a_command_that_does_not_wait_leaves_the_search_to_slurm(tmp_path, left):
    printed, stop = left("hydra/launcher=slurm", "hydra.launcher.wait=false")
    assert stop.code == 0 and Idle.ticks == [3]
    assert printed.endswith(f"they go on; {folder_in(tmp_path)}/search.journal has the trials so far\n")


def test_a_search_without_a_finished_trial_says_so(left, monkeypatch):
    def concluded(crew, _left, _live):
        Trials.read(crew.folder / "search.journal").conclude("no trial finished; the first: loss became nan")
        return []

    monkeypatch.setattr(Idle, "tick", concluded)
    assert str(left(*LOCAL)[1]) == "no trial finished; the first: loss became nan"


def test_the_work_of_a_search_is_its_trials_and_then_its_jobs(tmp_path):
    listed, plan = begun(tmp_path, "search=random", *TWO)
    trials = Trials.read(listed.folder / "search.journal")
    work = SearchWork(listed, Trials.read(trials.path), plan)
    for number in range(3):
        trials.end(trials.start("kd", [f"a={number}"]), FAILED if number else FINISHED)
    work.look_at(0)
    assert (work.noun, work.total, work.over, work.failed, work.left) == ("trial", 3, 3, 2, 1), "one lists the jobs"
    listing = json.loads((listed.folder / "jobs.json").read_text())
    listing["jobs"] = [{"number": number, "overrides": [f"seed={number}"], "folder": f"00{number}"} for number in range(2)]
    (listed.folder / "jobs.json").write_text(json.dumps(listing))
    (listed.folder / "001").mkdir()
    write_state(listed.folder / "001", "failed")
    work.look_at(1)
    assert (work.noun, work.total, work.over, work.failed, work.left) == ("job", 2, 1, 1, 1)
    conclude(listed.folder)
    assert not Trials.read(trials.path).concluded, "a job is left"


def test_the_end_without_a_final_training_is_the_end_of_the_work(tmp_path):
    listed, plan = begun(tmp_path, "search=random", *TWO)
    trials = Trials.read(listed.folder / "search.journal")
    trials.conclude("no trial finished")
    work = SearchWork(listed, trials, plan)
    assert work.left == 0 and work.stopped == "no trial finished"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search": ["search=random", "search.trials=4", ALPHA]}, "are not those of the machine"),
        ({"search": [ALPHA]}, "its list of jobs names no search"),
    ],
)
def test_a_machine_that_would_run_another_search_is_refused(tmp_path, change, words):
    listed, _ = begun(tmp_path, "search=random", *TWO)
    path = listed.folder / "jobs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(NotHere, match=words):
        run_in_worker(read_jobs(listed.folder))


def run_in_worker(listed):
    """Runs the trials of a search as a worker; returns the list of its jobs, and what was printed."""
    screen = io.StringIO()
    with Registration(listed.folder) as worker:
        return run_trials(listed, worker, COMPOSER, Journal(Console(file=screen, width=200)), Session()), screen.getvalue()


@pytest.mark.parametrize("error", [SearchStopped("no such data; fix that"), OSError(28, "disk full; fix that")])
def test_what_stops_every_trial_stops_the_worker(tmp_path, monkeypatch, error):
    def fail(_search, trial):
        raise error

    listed, _ = begun(tmp_path, "search=random", *TWO)
    monkeypatch.setattr(working_search, "continue_trial", fail)
    with pytest.raises(NotHere, match="fix that"):
        run_in_worker(listed)
    (state,) = [json.loads(path.read_text()) for path in (listed.folder / "workers").glob("*.json")]
    assert (state["job"], state["jobs"]) == (None, 0) and state["title"].startswith("trial 1/3  distillation.alpha=")


def test_a_worker_of_a_search_without_a_finished_trial_ends_in_words(tmp_path, monkeypatch):
    listed, _ = begun(tmp_path, "search=random", *TWO)
    monkeypatch.setattr(
        working_search, "continue_trial", lambda search, trial: search.trials.end(trial, FAILED, "loss became nan")
    )
    found, printed = run_in_worker(listed)
    assert found.jobs == () and printed == "the search stopped: no trial finished; the first: loss became nan\n"
    assert Trials.read(listed.folder / "search.journal").stopped


def test_a_dry_run_by_workers_starts_none(here, tmp_path):
    code, printed = here("search=random", ALPHA, *LOCAL, "device=cpu", "dry_run=true")
    assert code == 0 and "kd: 20 trials (random)" in printed.out and list(tmp_path.iterdir()) == []
