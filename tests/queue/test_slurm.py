"""Workers in SLURM: what is submitted and replaced, and, on a real cluster, kills, requeues and preemption."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from searches import ALPHA, SEEDS, run_search, trials_in
from sweeps_to_do import listed_sweep, logs, wait_for, weights_in

from kdexp.commands import crews
from kdexp.commands.work import start
from kdexp.configuration.hydra_settings import LAUNCHERS
from kdexp.configuration.shipped import conf_dir
from kdexp.errors import InvalidArguments, Problem
from kdexp.queue import slurm
from kdexp.queue.job_list import SHIPPED, Source
from kdexp.queue.roster import Registration, WorkerState, live_workers
from kdexp.queue.slurm import SlurmCrew, SlurmPlan

NODE = OmegaConf.load(f"{conf_dir()}/hydra/launcher/slurm.yaml")


@pytest.fixture
def crew(tmp_path, monkeypatch):
    """A crew of two workers whose array SLURM would list as in `crew.listed`; `crew.submitted` counts what it submits."""
    made = SlurmCrew(tmp_path, SlurmPlan(2, {"time": 9}), start)
    made.listed, made.submitted = {}, []
    (tmp_path / "slurm").mkdir()

    def submit(number):
        made.submitted.append(number)
        (tmp_path / "slurm" / "arrays.json").write_text('["7"]')
        made.listed |= {f"7_{task}": "PENDING" for task in range(len(made.listed), len(made.listed) + number)}
        made._queued |= set(made.listed)
        return "array 7"

    def run(words, **_):
        assert words[0] == "squeue" and "--me" in words
        return subprocess.CompletedProcess(words, 0, "".join(f"{task} {state}\n" for task, state in made.listed.items()))

    monkeypatch.setattr(made, "submit", submit)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(slurm, "POLL", 0)
    return made


def registered(folder, task, **state):
    with Registration(folder, task) as worker:
        worker.note(**state)


def test_missing_workers_are_submitted_once(crew, tmp_path):
    assert crew.tick(3, []) == ["submitted array 7"] and crew.submitted == [2]
    assert crew.tick(3, []) == [] and not crew.over
    again = SlurmCrew(tmp_path, SlurmPlan(3, {}), start)
    again.submit = crew.submit
    again.tick(5, [])
    assert crew.submitted == [2, 1], "another command submits only what is missing"


def test_a_task_that_died_is_replaced_and_one_that_ended_is_not(crew, tmp_path):
    crew.tick(3, [])
    registered(tmp_path, "7_0", job=1)
    registered(tmp_path, "7_1", job=None, jobs=2)
    crew.listed.clear()
    said = crew.tick(3, [])
    assert re.match(r"SLURM task 7_0 \(process \d+ on .*\) died; another worker goes on", said[0])
    assert said[1:] == ["submitted array 7"] and crew.submitted == [2, 1]


def test_a_task_that_ends_may_be_queued_again(crew, tmp_path):
    crew.tick(3, [])
    registered(tmp_path, "7_0", job=None)
    registered(tmp_path, "7_1", job=None)
    crew.listed = {"7_0": "COMPLETING"}
    assert crew.tick(3, []) == [] and not crew.over
    again = SlurmCrew(tmp_path, SlurmPlan(1, {}), start)
    again.submit = crew.submit
    assert again.tick(3, []) == ["submitted array 7"], "nobody knows whether it will"
    crew.listed = {"7_0": "PENDING"}
    assert crew.tick(3, []) == [] and not crew.over
    crew.listed = {}
    assert crew.tick(3, []) == [] and crew.over


def test_a_task_that_never_worked_is_named_with_its_log(crew, tmp_path):
    crew.tick(2, [])
    (tmp_path / "slurm" / "7_0_0_log.err").write_text("ModuleNotFoundError: No module named 'kdexp'\n")
    crew.listed.clear()
    said = crew.tick(2, [])
    assert "SLURM task 7_0 ended before it took a job" in said[0] and said[0].endswith("No module named 'kdexp'")
    assert "squeue --job 7_1" in said[1] and crew.over and crew.submitted == [2]


def test_nothing_is_done_while_slurm_does_not_answer(crew, monkeypatch):
    crew.tick(3, [])

    def fails(*_, **__):
        raise subprocess.CalledProcessError(1, "squeue")

    monkeypatch.setattr(subprocess, "run", fails)
    assert crew.tick(3, [WorkerState("a")]) == [] and not crew.over


def test_links_to_the_folder_are_those_of_the_nodes(tmp_path, monkeypatch):
    made = []

    class Executor:
        def __init__(self, folder):
            made.append(folder)

        def update_parameters(self, **_):
            pass

        def map_array(self, _, folders):
            made.extend(folders)
            return [SimpleNamespace(job_id=f"7_{number}") for number in range(len(folders))]

    monkeypatch.setattr("submitit.SlurmExecutor", Executor)
    (tmp_path / "here" / "slurm").mkdir(parents=True)
    (tmp_path / "everywhere").symlink_to("here")
    SlurmCrew(tmp_path / "everywhere", SlurmPlan(1, {}), start).submit(1)
    assert made == [tmp_path / "everywhere" / "slurm", str(tmp_path / "everywhere")]


def test_settings_become_options_of_sbatch():
    node = {**OmegaConf.to_container(NODE), "workers": 9, "gres": "gpu:1", "setup": ["module load cuda"], "sbatch": {"nice": 5}}
    plan = SlurmPlan.of(node, 4)
    assert plan.workers == 4 and "partition" not in plan.parameters
    for name, value in {"gres": "gpu:1", "setup": ["module load cuda"], "time": 240, "signal_delay_s": 120}.items():
        assert plan.parameters[name] == value
    assert plan.parameters["additional_parameters"] == {"requeue": True, "nice": 5}


def test_every_setting_of_the_launchers_is_checked():
    for name, settings in LAUNCHERS.items():
        if name != "basic":
            written = OmegaConf.load(f"{conf_dir()}/hydra/launcher/{name}.yaml")
            assert written.keys() - {"_target_"} == settings.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.launcher.minutes=soon"], "hydra.launcher.minutes='soon': must be a whole number"),
        (["hydra.launcher.partition=7"], "hydra.launcher.partition=7: must be a text (or null)"),
        (["hydra.launcher.setup=module"], "hydra.launcher.setup='module': must be a list, written [module]"),
        (
            ["+hydra.launcher.sbatch.ntasks=2"],
            "hydra.launcher.sbatch.ntasks=2: each worker is one task; hydra.launcher.workers=N",
        ),
        (["hydra.launcher.minutes=2"], "hydra.launcher.signal_seconds=120: must be less than the 2 minutes of a task"),
    ],
)
def test_bad_settings_are_refused(refused, monkeypatch, words, message):
    monkeypatch.setattr(crews, "missing_for_slurm", lambda: "")
    assert message in refused("-m", "hydra/launcher=slurm", "seed=0,1", *words)


def test_a_machine_without_slurm_is_told_what_to_do(refused, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name, **_: None)
    assert "hydra/launcher=slurm: this machine has no sbatch; use one that" in refused("-m", "hydra/launcher=slurm", "seed=0,1")


def test_jobs_for_other_machines_may_name_devices_that_are_not_here(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name, **_: None)
    printed = refused("-m", "hydra/launcher=slurm", "device=cuda", "graph=true", "seed=0,1")
    assert "1 problem" in printed and "no sbatch" in printed


# On a real cluster.

WORDS = ("device=cpu", "epochs=2", "limit_batches=3")
SLURM = ("-m", "hydra/launcher=slurm", "hydra.launcher.workers=2", "hydra.launcher.cpus_per_task=1", *WORDS)


def alone(folder, *words, source=SHIPPED):
    """The weights and the table of the same jobs in one process."""
    listed = listed_sweep(folder / "alone", *words, short=WORDS, source=source)
    done = subprocess.run(
        [sys.executable, "-m", "kdexp.commands.work", str(listed.folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0
    return weights_in(folder / "alone" / "store"), (listed.folder / "sweep.csv").read_text()


@pytest.mark.slurm
def test_a_sweep_in_slurm_outlives_its_command_and_a_killed_worker(user, tmp_path):
    words = ("teacher_epochs=1500", "seed=0,1,2")
    printed, code = user.run(*SLURM, *words, "hydra.launcher.wait=false")
    assert code == 0 and "submitted array " in printed and "scancel " in printed, printed
    os.kill(int(re.search(r"\d+", user.trainer().process)[0]), signal.SIGKILL)
    wait_for(lambda: len(user.shell("squeue", "-h", "-r", "-t", "RUNNING").splitlines()) == 1)
    client = user.start(*SLURM, *words)
    while "submitted array " not in (line := client.stdout.readline()):
        assert line, "the worker that is missing was not submitted"
    client.send_signal(signal.SIGINT)
    assert "the workers go on in SLURM; the same command comes back" in client.communicate(timeout=60)[0]
    assert client.returncode == 130 and user.shell("squeue", "-h") != ""
    printed, code = user.run(*SLURM, *words)
    assert code == 0 and "95 % interval" in printed, printed
    learners, table = alone(tmp_path, *words)
    assert weights_in(tmp_path / "outputs" / "store") == learners and (user.sweep / "sweep.csv").read_text() == table


@pytest.mark.slurm
def test_a_task_goes_on_after_its_time_limit_and_after_preemption(user, tmp_path):
    words = ("teacher_epochs=1500", "seed=0,1")
    user.run(*SLURM, *words, "hydra.launcher.wait=false", "hydra.launcher.workers=1")
    task = user.trainer().starter
    user.shell("scancel", "--signal=USR2", task)  # what SLURM sends before the limit
    wait_for(lambda: not live_workers(user.sweep))
    assert json.loads((user.sweep / "000" / "status.json").read_text())["state"] == "interrupted"
    user.restart()
    assert user.trainer().starter == task
    user.shell("sbatch", "-p", "urgent", "-N", "2", "--wrap", "sleep 1")
    wait_for(lambda: not live_workers(user.sweep))
    user.restart()
    printed, code = user.run(*SLURM, *words, "hydra.launcher.workers=1")
    assert code == 0 and "95 % interval" in printed, printed
    assert logs(user.sweep).count("teacher: resuming after epoch ") == 2
    learners, table = alone(tmp_path, *words)
    assert weights_in(tmp_path / "outputs" / "store") == learners and (user.sweep / "sweep.csv").read_text() == table


SLOW = """\
import os
import time

from kdexp.distillation.kd import KD


class Slow(KD):
    def transfer(self, batch, student, teacher, progress):
        time.sleep(0.5 * ("SLURM_JOB_ID" in os.environ))
        return {}
"""


@pytest.mark.slurm
@pytest.mark.exhaustive
def test_a_time_limit_that_ends_cuts_nothing_off(user, tmp_path, monkeypatch):
    """SLURM counts limits in minutes, sends its signal up to a minute early, and makes requeued tasks wait for two minutes."""
    options = tmp_path / "own" / "conf" / "distillation"
    options.mkdir(parents=True)
    (tmp_path / "own" / "slow_method.py").write_text(SLOW)
    (options / "slow.yaml").write_text("defaults: [kd]\n_target_: slow_method.Slow\n")
    monkeypatch.syspath_prepend(tmp_path / "own")
    source = Source(str(options.parent))
    words = ("teacher_epochs=1", "distillation=slow", "epochs=80", "seed=0")
    limit = ("hydra.launcher.workers=1", "hydra.launcher.minutes=2", "hydra.launcher.signal_seconds=20")
    printed, code = user.run("--config-dir", source.config_dir, *SLURM, *words, *limit, timeout=3000)
    assert code == 0 and "vs base" in printed, printed
    (submission,) = (user.sweep / "slurm").glob("[0-9]*.sh")
    assert "--time=2\n" in submission.read_text()
    cut = len(list(user.sweep.glob("000.interrupted-*")))
    assert cut >= 1 and not list(user.sweep.glob("000.killed-*")) and "died" not in printed
    assert logs(user.sweep).count("distilled: resuming after epoch ") >= 1
    learners, table = alone(tmp_path, *words, source=source)
    assert weights_in(tmp_path / "outputs" / "store") == learners and (user.sweep / "sweep.csv").read_text() == table


@pytest.mark.slurm
@pytest.mark.exhaustive
def test_a_search_in_slurm_goes_on_without_its_command(user, tmp_path):
    words = ("search=random", "search.trials=2", "search.parallel=2", ALPHA)
    printed, code = user.run(*SLURM[1:], *SEEDS, *words, "hydra.launcher.wait=false")
    assert code == 0 and "submitted array " in printed and "search.journal has the trials so far" in printed, printed
    printed, code = user.run(*SLURM[1:], *SEEDS, *words)
    assert code == 0 and "Search (random): kd 2 trials" in printed, printed
    whole, _ = run_search(tmp_path / "alone", *words, short=WORDS)
    assert trials_in(user.sweep) == trials_in(whole)


@pytest.mark.slurm
def test_what_slurm_refuses_is_said_in_its_words(user):
    printed, code = user.run(*SLURM, "seed=0,1", "hydra.launcher.partition=nowhere")
    assert code == 2 and "invalid partition specified: nowhere" in printed and "Traceback" not in printed


def test_a_refusal_of_another_worker_leaves_those_that_run_alone(crew, monkeypatch):
    crew.tick(3, [])
    registered(crew._folder, "7_0", job=1)
    del crew.listed["7_0"]

    def refuse(_number):
        raise InvalidArguments([Problem("hydra/launcher", "=slurm: sbatch: error: QOSMaxSubmitJobPerUserLimit")])

    monkeypatch.setattr(crew, "submit", refuse)
    died, refused = crew.tick(3, [])
    assert "died" in died and "QOSMaxSubmitJobPerUserLimit" in refused and not crew.over


def test_a_command_that_slurm_does_not_answer_says_once_that_it_submits_nothing(crew, tmp_path, monkeypatch):
    crew.tick(3, [])

    def fails(*_, **__):
        raise subprocess.CalledProcessError(1, "squeue")

    monkeypatch.setattr(subprocess, "run", fails)
    again = SlurmCrew(tmp_path, SlurmPlan(2, {}), start)
    assert "squeue" in again.tick(3, [])[0] and again.tick(3, []) == []
