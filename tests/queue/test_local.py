"""Workers on this machine: where each runs, which are replaced, and what the command that started them shows."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from experiments import SHORT
from omegaconf import OmegaConf
from processes import command
from rich.console import Console
from sweeps_to_do import listed_sweep, logs, wait_for, weights_in

from kdexp.commands import by_workers, crews
from kdexp.commands.crews import plan_local, visible_gpus
from kdexp.errors import InvalidArguments, SweepLost
from kdexp.processes import Process
from kdexp.queue.attach import find_unfinished, mark_ended
from kdexp.queue.crew import Onlookers
from kdexp.queue.job_list import SHIPPED, JobList, ListedJob, Source
from kdexp.queue.local import LocalCrew, LocalPlan
from kdexp.queue.roster import Registration, WorkerState, live_workers, read_state
from kdexp.queue.screen import Progress, SweepScreen, drawn
from kdexp.queue.watch import SweepWork, Watch
from kdexp.store.locks import hold
from kdexp.store.run_state import write_state

LOCAL = ("-m", "hydra/launcher=local", "hydra.launcher.workers=2", "device=cpu")


@pytest.fixture
def listed(tmp_path):
    """A list of three jobs, none of which has started."""
    (tmp_path / "jobs.json").write_text("{}")
    return JobList(tmp_path, tuple(ListedJob(number, (f"seed={number}",), f"00{number}") for number in range(3)))


def node(**settings):
    return OmegaConf.create({"workers": None, "per_gpu": 1, "threads": None, **settings})


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(crews, "pick_device", lambda name: torch.device("cpu" if name == "cpu" else "cuda"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(crews, "cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_workers_take_turns_on_gpus_and_share_the_cores(two_gpus, monkeypatch):
    jobs = [{"device": "auto", "devices": 1}] * 9
    plan = plan_local(node(per_gpu=2), jobs, 9)
    assert [plan.environment(number)["CUDA_VISIBLE_DEVICES"] for number in range(plan.workers)] == ["5", "5", "7", "7"]
    assert plan.environment(0)["OMP_NUM_THREADS"] == "2" and str(plan) == "4 workers on GPU 5, 7, 2 threads each"
    assert plan_local(node(threads=3), jobs, 9).environment(1)["OMP_NUM_THREADS"] == "3"
    for given, threads in {"1": "1", "9": "4", "": "4", "4,2": "4"}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert plan_local(node(), jobs, 9).environment(0)["OMP_NUM_THREADS"] == threads
    assert plan_local(node(), jobs, 1).workers == 1, "no more workers than jobs"
    on_cpu = plan_local(node(), [{"device": "cpu", "devices": 1}] * 9, 9)
    assert (on_cpu.workers, on_cpu.threads, on_cpu.environment(0)["CUDA_VISIBLE_DEVICES"]) == (8, 1, "5,7")


def test_gpus_are_those_that_the_environment_leaves(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize(
    ("settings", "device", "words"),
    [
        ({"workers": 5}, "cuda", "hydra.launcher.workers=5: 2 GPUs with per_gpu=1 take 2; hydra.launcher.per_gpu=3 takes more"),
        ({}, "cuda:1", "device=cuda:1: workers take turns on the GPUs"),
    ],
)
def test_what_gpus_can_not_take_is_refused(two_gpus, settings, device, words):
    with pytest.raises(InvalidArguments, match=re.escape(words)):
        plan_local(node(**settings), [{"device": device, "devices": 1}] * 9, 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "hydra.launcher.workers=0"), "hydra.launcher.workers=0: must be at least 1 (or null)"),
        (("-m", "hydra.launcher.per_gpu=x"), "hydra.launcher.per_gpu='x': must be a whole number"),
        (
            ("-m", "hydra.launcher.wrkers=2"),
            "did you mean workers? lockstep has max_learners; local has workers, per_gpu, threads",
        ),
        ((), "hydra/launcher=local: starts workers for the jobs of a sweep; add -m"),
    ],
)
def test_bad_settings_are_refused(refused, words, message):
    assert message in " ".join(refused("hydra/launcher=local", "seed=0,1" if words else "seed=0", *words).split())


def crew_of(listed, monkeypatch, code):
    """A crew of one worker that runs these lines of Python instead."""
    starts = []

    def start(self, slot):
        starts.append(slot)
        with self._output(slot).open("wb") as output:
            return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=output, stderr=output)

    monkeypatch.setattr(LocalCrew, "_start", start)
    return LocalCrew(listed.folder, LocalPlan(1, [], 1, 1)), starts


def ticks(crew, left=3):
    """What a crew says until its worker has ended."""
    said = crew.tick(left, [])
    for process in list(crew._running.values()):
        process.wait()
    return said + crew.tick(left, [])


@pytest.mark.parametrize("code", ["exit(2)", "exit(143)", "print('no such module'); exit(1)"])
def test_a_worker_that_refuses_or_fails_to_start_is_not_started_again(listed, monkeypatch, code):
    crew, starts = crew_of(listed, monkeypatch, code)
    said = ticks(crew)
    assert starts == [0] and crew.over
    assert [sentence.rpartition(": ")[2] for sentence in said] == (["no such module"] if "print" in code else [])


def test_a_worker_that_dies_is_replaced(listed, monkeypatch):
    crew, starts = crew_of(listed, monkeypatch, "import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(LocalCrew, "_has_worked", lambda *words: len(starts) < 2)
    (said,) = ticks(crew)
    assert starts == [0, 0] and re.fullmatch(
        r"worker 1 \(process \d+ on .*\) was killed by SIGKILL; others go on with its job", said
    )
    assert "before it took a job" in ticks(crew)[0] and crew.over


def test_whether_a_worker_has_taken_a_job_stands_in_its_file(listed):
    crew = LocalCrew(listed.folder, LocalPlan(1, [], 1, 1))
    with Registration(listed.folder) as worker:
        assert not crew._has_worked(os.getpid())
        worker.note(job=0, title="1/3  seed=0")
        assert crew._has_worked(os.getpid())


def test_an_idle_worker_is_called_back_once_nobody_else_works(listed, monkeypatch):
    crew, starts = crew_of(listed, monkeypatch, "exit(0)")
    crew.tick(3, [])
    crew._running[0].wait()
    crew.tick(3, [WorkerState("another")])
    assert starts == [0] and not crew.over
    crew.tick(3, [])
    assert starts == [0, 0]
    crew.stop()


def test_workers_are_ended_as_by_ctrl_c(listed, monkeypatch):
    code = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\nprint('ready', flush=True)\ntime.sleep(60)"
    crew, _ = crew_of(listed, monkeypatch, code)
    crew.tick(3, [])
    (process,) = crew._running.values()
    wait_for(lambda: "ready" in (listed.folder / "workers" / "local-1.txt").read_text())
    crew.stop()
    assert process.returncode == 143


def follow(listed, crew):
    screen = io.StringIO()
    with SweepScreen(Console(file=screen, width=200)) as shown:
        Watch(listed.folder, SweepWork(listed)).follow(lambda: crew, shown)
    return screen.getvalue()


def test_the_watch_ends_without_workers_and_takes_jobs_that_are_over_from_their_folders(listed):
    for number, state in ((0, "finished"), (2, "failed")):
        listed.folder_of(listed.jobs[number]).mkdir()
        write_state(listed.folder_of(listed.jobs[number]), state)
    watch = Watch(listed.folder, SweepWork(listed))
    assert watch.work.left == 1
    watch.follow(Onlookers, SweepScreen(Console(file=io.StringIO())))
    assert follow(listed, Onlookers()) == ""


def test_the_watch_prints_what_workers_say_once(listed):
    class Speaking(Onlookers):
        def tick(self, left, live):
            for number in range(left):
                listed.folder_of(listed.jobs[number]).mkdir()
                write_state(listed.folder_of(listed.jobs[number]), "finished")
                worker.tell(f"{number + 1}/3  seed={number}: fine", number)
                worker.tell("warning: grey images")
            return ["worker 1 was killed"]

    with Registration(listed.folder) as worker:
        lines = follow(listed, Speaking()).splitlines()
    assert lines == [
        "worker 1 was killed",
        "1/3  seed=0: fine",
        "warning: grey images",
        "2/3  seed=1: fine",
        "3/3  seed=2: fine",
    ]


def test_the_watch_over_a_lost_folder_ends(listed):
    watch = Watch(listed.folder, SweepWork(listed))
    (listed.folder / "jobs.json").unlink()
    with pytest.raises(SweepLost, match="has disappeared"):
        watch.follow(Onlookers, SweepScreen(Console(file=io.StringIO())))


def test_the_screen_shows_each_worker_and_all_jobs():
    busy = {
        "job": 1,
        "title": "2/3  seed=1",
        "learners": "baseline, distilled",
        "epoch": 5,
        "epochs": 40,
        "seconds": 2.0,
        "jobs": 1,
        "busy": 60.0,
    }
    workers = [
        WorkerState("n1-7-abcdef", **busy),
        WorkerState("n2-9-abcdef", job=0, title="1/3  seed=0", waiting="waiting for process 7 on n1"),
    ]
    screen = io.StringIO()
    Console(file=screen, width=120).print(drawn(Progress(3, 1, 1, workers)))
    lines = [line.split() for line in screen.getvalue().splitlines()]
    assert lines[1] == ["n1-7", "2/3", "seed=1", "baseline,", "distilled", "5/40", "1m10s"]
    assert lines[2] == ["n2-9", "1/3", "seed=0", "waiting", "for", "process", "7", "on", "n1", "–", "–"]
    assert " ".join(lines[-1]).lstrip("━╸╺ ") == "1 of 3 jobs over, 1 failed; 2 workers, about 1m00s left"


def test_the_same_command_comes_back_to_its_unfinished_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = listed_sweep("out", "seed=0,1")
    digest = listed.folder.name.split("_")[2]
    jobs = [[*job.overrides, "hydra/launcher=local"] for job in listed.jobs]
    sweeps = tmp_path / "out" / "sweeps"
    assert find_unfinished(sweeps, digest, jobs, SHIPPED).folder == tmp_path / listed.folder
    assert find_unfinished(sweeps, digest, jobs[:1], SHIPPED) is None, "other jobs"
    for job in listed.jobs:
        listed.folder_of(job).mkdir()
        write_state(listed.folder_of(job), "failed" if job.number else "finished")
    assert find_unfinished(sweeps, digest, jobs, SHIPPED), "its table is still to be shown"
    mark_ended(listed.folder)
    assert find_unfinished(sweeps, digest, jobs, SHIPPED) is None, "it has ended, and failed jobs are tried anew"
    write_state(listed.folder_of(listed.jobs[0]), "interrupted")
    assert find_unfinished(sweeps, digest, jobs, SHIPPED)


def sweep_folder(folder):
    """The sweep's folder once its command has listed the jobs."""
    wait_for(lambda: list(folder.glob("outputs/sweeps/*/jobs.json")))
    (found,) = folder.glob("outputs/sweeps/*/jobs.json")
    return found.parent


def training(folder):
    """The number of a process that trains, once there is one."""
    wait_for(lambda: any(state.epoch for state in live_workers(folder)))
    return next(int(re.search(r"\d+", state.process)[0]) for state in live_workers(folder) if state.epoch)


@pytest.mark.slow
def test_another_worker_goes_on_from_the_last_epoch_of_one_that_is_killed(tmp_path):
    words = ("teacher_epochs=60", "limit_batches=null", "seed=0,1")
    listed = {name: listed_sweep(tmp_path / name, *words) for name in ("whole", "killed")}
    whole = command(tmp_path, [str(listed["whole"].folder)], "work", "whole.txt")
    whole.join()
    folder = listed["killed"].folder
    both = [command(tmp_path, [str(folder)], "work", f"{name}.txt") for name in "ab"]
    number = training(folder)
    wait_for(lambda: list((tmp_path / "killed" / "store" / "learner").glob("*.progress")))
    os.kill(number, signal.SIGKILL)
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [-9, 0]
    assert re.search("teacher: resuming after epoch [1-9]", logs(folder)) and len(list(folder.glob("*.killed-1"))) == 1
    assert weights_in(tmp_path / "killed" / "store") == weights_in(tmp_path / "whole" / "store")
    assert (folder / "sweep.csv").read_text() == (listed["whole"].folder / "sweep.csv").read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_command_replaces_a_killed_worker_and_ends_with_the_table(tmp_path):
    words = (*LOCAL, "limit_batches=3", "epochs=2", "teacher_epochs=300", "optimizer=sgd", "optimizer@teacher_optimizer=adam")
    client = command(tmp_path, [*words, "optimizer.lr=0.05,1e30"])
    folder = sweep_folder(tmp_path)
    os.kill(training(folder), signal.SIGKILL)
    client.join()
    printed = (tmp_path / "printed.txt").read_text()
    assert client.exitcode == 3, printed
    assert "was killed by SIGKILL; others go on with its job" in printed
    assert "optimizer.lr=1e+30: failed: " in printed and "95 % interval" in printed and "1 of 2 jobs" in printed
    assert live_workers(folder) == []


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_the_same_command_goes_on(tmp_path):
    words = [*LOCAL, "limit_batches=3", "epochs=2", "teacher_epochs=1000", "seed=0,1"]
    client = command(tmp_path, words)
    folder = sweep_folder(tmp_path)
    training(folder)
    onlooker = command(tmp_path, words, printed="onlooker.txt")
    wait_for(lambda: "this command watches" in "".join(path.read_text() for path in tmp_path.glob("onlooker.txt")))
    os.kill(onlooker.pid, signal.SIGINT)
    onlooker.join()
    assert onlooker.exitcode == 130 and live_workers(folder), "who only watches ends nobody"
    os.kill(client.pid, signal.SIGINT)
    client.join()
    assert client.exitcode == 130 and live_workers(folder) == []
    assert json.loads((folder / "000" / "status.json").read_text())["state"] == "interrupted"
    second = command(tmp_path, words, printed="second.txt")
    second.join()
    assert second.exitcode == 0 and sweep_folder(tmp_path) == folder, "no second sweep"
    assert re.search("teacher: resuming after epoch [1-9]", logs(folder))
    assert "95 % interval" in (tmp_path / "second.txt").read_text()


@pytest.mark.slow
def test_workers_end_when_their_command_is_killed(tmp_path):
    client = command(tmp_path, [*LOCAL, "teacher_epochs=10000", "seed=0,1"])
    folder = sweep_folder(tmp_path)
    training(folder)
    client.kill()
    wait_for(lambda: not live_workers(folder))
    assert json.loads((folder / "000" / "status.json").read_text())["state"] == "interrupted"


@pytest.mark.slow
def test_a_lost_folder_ends_the_command_and_its_workers(tmp_path):
    client = command(tmp_path, [*LOCAL, *SHORT, "teacher_epochs=10000", "seed=0,1"])
    folder = sweep_folder(tmp_path)
    number = training(folder)
    (tmp_path / "outputs").rename(tmp_path / "elsewhere")  # with the store in it
    client.join()
    printed = (tmp_path / "printed.txt").read_text()
    assert client.exitcode == 3 and "has disappeared" in printed and "Traceback" not in printed
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.slow
def test_a_module_that_is_missing_on_another_machine_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "own")
    own = tmp_path / "own" / "conf" / "distillation"
    own.mkdir(parents=True)
    module = tmp_path / "own" / "mine_elsewhere.py"
    module.write_text("from kdexp.distillation.kd import KD\n\n\nclass Mine(KD):\n    pass\n")
    (own / "mine.yaml").write_text("defaults: [kd]\n_target_: mine_elsewhere.Mine\n")
    source = Source(str(own.parent), "config")
    listed = listed_sweep(tmp_path / "out", "distillation=mine", "seed=0,1", source=source)
    module.unlink()
    worker = command(tmp_path, [str(listed.folder)], "work")
    worker.join()
    printed = (tmp_path / "printed.txt").read_text()
    assert worker.exitcode == 2 and "job 1/2  seed=0: distillation._target_" in printed and "mine_elsewhere" in printed
    assert "can't work on this sweep" in "".join(path.read_text() for path in listed.folder.glob("workers/*.jsonl"))
    (state,) = map(read_state, listed.folder.glob("workers/*.json"))
    assert state.job is None and not (listed.folder / "000").exists(), "it is no worker that died"
    module.write_text("from kdexp.distillation.kd import KD\n\n\nclass Mine(KD):\n    pass\n")
    worker = command(tmp_path, [str(listed.folder)], "work")
    worker.join()
    assert worker.exitcode == 0, (tmp_path / "printed.txt").read_text()


def test_idle_workers_are_not_called_back_forever(listed, monkeypatch):
    crew, starts = crew_of(listed, monkeypatch, "exit(3)")
    for _ in range(9):
        ticks(crew)
    assert crew.over and 1 < len(starts) < 9


def test_a_worker_that_a_signal_without_a_name_ends_is_said_so(listed, monkeypatch):
    crew, _ = crew_of(listed, monkeypatch, "import os; os.kill(os.getpid(), 40)")
    assert "was killed by signal 40" in ticks(crew)[0]


def test_a_command_that_comes_a_moment_later_names_the_one_that_leads(tmp_path, monkeypatch):
    with ExitStack() as until:

        def hold_late(path, stack):
            monkeypatch.undo()
            assert by_workers._Lead(tmp_path, until, Onlookers(), "1 worker").first
            hold(path, stack)

        monkeypatch.setattr(by_workers, "hold", hold_late)
        late = by_workers._Lead(tmp_path, until, Onlookers(), "1 worker")
        assert not late.first and late.other == str(Process.this())


@pytest.mark.parametrize("search", [(), ("search=random", "search.trials=2", "distillation.alpha=interval(0,1)")])
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_folder_that_can_no_longer_be_written_ends_a_command_in_words(here, monkeypatch, launcher, search):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for place in (
        "kdexp.queue.local.LocalCrew._start",
        "kdexp.queue.queue.numbered_locks",
        "kdexp.search.queue.numbered_locks",
    ):
        monkeypatch.setattr(place, full)
    words = search or ("-m", "seed=0,1")
    code, printed = here(*SHORT, *words, f"hydra/launcher={launcher}", columns=200)
    assert code == 3 and "No space left on device" in printed.err and "Traceback" not in printed.err


def test_a_job_with_several_ranks_has_as_many_gpus(two_gpus):
    plan = plan_local(node(), [{"device": "auto", "devices": 2}, {"device": "auto", "devices": 1}], 9)
    assert plan.workers == 1 and plan.environment(0)["CUDA_VISIBLE_DEVICES"] == "5,7"
    with pytest.raises(
        InvalidArguments, match="2 GPUs with per_gpu=1 and devices=2 take 1; hydra.launcher.per_gpu=3 takes more"
    ):
        plan_local(node(workers=3), [{"device": "cuda", "devices": 2}], 9)


def test_a_second_request_to_end_does_not_interrupt_the_saving():
    code = "import os, time\nfrom kdexp.commands.process import code_of, set_up\nset_up()\n"
    code += "try:\n    os.kill(os.getpid(), 15)\n    time.sleep(9)\nexcept KeyboardInterrupt as stop:\n"
    code += "    os.kill(os.getpid(), 15)\n    time.sleep(0.01)\n    print('saved', code_of(stop))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "saved 143\n"


def test_who_only_watches_says_that_it_takes_over(listed):
    first, second, printed = ExitStack(), ExitStack(), io.StringIO()
    leading, watching = (by_workers._Lead(listed.folder, until, Onlookers(), "2 workers") for until in (first, second))
    screen = SweepScreen(Console(file=printed))
    watching.crew(screen)
    assert leading.first and not watching.first and printed.getvalue() == ""
    first.close()
    for _ in range(2):
        watching.crew(screen)
    assert printed.getvalue() == f"{Process.this()} has ended; this command goes on with 2 workers\n"
    second.close()
