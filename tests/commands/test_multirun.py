"""Multiruns: jobs run one by one or in lockstep, share data and teachers, fail alone, and end with one table."""

import io
import json
from collections import Counter

import pytest
import torch
from each_method import by_kind, chosen
from experiments import COMPOSER, SHORT
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from processes import command
from rich.console import Console

from kdexp.commands import multirun
from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import Lockstep, run_jobs
from kdexp.configuration.jobs import expand
from kdexp.experiment import lockstep, setup
from kdexp.experiment.obtain import obtain
from kdexp.network.build import build_network
from kdexp.queue.trained import TrainedHere
from kdexp.store.learners import LearnerStore
from kdexp.teacher.frozen import Teacher
from kdexp.training.learner import Learner
from kdexp.training.prepare import prepare

pytestmark = pytest.mark.usefixtures("without_pictures")

NETS = ("teacher=lightnn", "student=lightnn")
STAGED = ("teacher._target_=own_networks.StagedNet", "~teacher.hidden", "+teacher.width=8")
STAGED += ("student._target_=own_networks.StagedNet", "~student.hidden")
"""Networks that have layers for every method and draw random numbers."""


@pytest.fixture
def sweep(tmp_path):
    """Runs a multirun with short jobs; returns its folder, what was printed, and the learners by key."""

    def run(*words, lockstep=None, place="out"):
        screen = io.StringIO()
        overrides = expand([f"output_dir={tmp_path / place}", *SHORT, *words])
        jobs = [PlannedJob(number, job, COMPOSER.compose(job)) for number, job in enumerate(overrides)]
        folder = run_jobs(jobs, ["-m", *words], lockstep, Console(file=screen, width=200))
        store = LearnerStore(tmp_path / place / "store")
        keys = [path.name for path in store.root.iterdir() if path.is_dir()] if store.root.is_dir() else []
        return folder, screen.getvalue(), {key: store.find(key) for key in keys}

    return run


@pytest.fixture
def trained(monkeypatch):
    """Counts the learners that are trained, by name, and the groups they train in."""
    counts = Counter()
    real = Learner.record_epoch

    def counted(self, *words, **named):
        counts[self.name] += not self.history
        return real(self, *words, **named)

    monkeypatch.setattr(Learner, "record_epoch", counted)
    return counts


def weights(learners):
    return {key: {name: value.tolist() for name, value in stored.tensors("last").items()} for key, stored in learners.items()}


@pytest.mark.slow
def test_the_sweep_folder_lists_all_jobs_and_their_states(sweep):
    folder, screen, _ = sweep("distillation.temperature=1,4", "seed=0,1")
    sweep_file = json.loads((folder / "jobs.json").read_text())
    assert sweep_file["command"] == ["-m", "distillation.temperature=1,4", "seed=0,1"]
    assert [job["folder"] for job in sweep_file["jobs"]] == ["000", "001", "002", "003"]
    assert sweep_file["jobs"][3]["overrides"][-2:] == ["distillation.temperature=4", "seed=1"]
    for job in sweep_file["jobs"]:
        assert json.loads((folder / job["folder"] / "status.json").read_text()) == {"state": "finished", "reason": ""}
        assert {"table.json", "config.yaml", "log.txt"} <= {path.name for path in (folder / job["folder"]).iterdir()}
    lines = screen.splitlines()
    assert len(lines) == 5 and lines[4].startswith("4/4  distillation.temperature=4 seed=1: teacher ")


@pytest.mark.slow
def test_data_are_read_once_and_the_teacher_runs_once(sweep, monkeypatch):
    reads, asked = [], []
    load, ask = setup.load, Teacher.ask
    monkeypatch.setattr(setup, "load", lambda *words: reads.append(1) or load(*words))
    monkeypatch.setattr(Teacher, "ask", lambda self, image: asked.append(len(image)) or ask(self, image))
    sweep("distillation.temperature=1,4", "seed=0,1", "limit_batches=null")
    assert len(reads) == 1
    assert sum(asked) == 90, "every training image of the students, whatever the number of jobs and epochs"


@pytest.mark.slow
@pytest.mark.parametrize("lockstep", [None, Lockstep(None)])
def test_every_distinct_learner_is_trained_once_even_under_force(sweep, trained, lockstep):
    for _ in range(2):
        folder, _, learners = sweep("force=true", "distillation.temperature=1,4", "seed=0,1", lockstep=lockstep)
        assert sum(trained.values()) == len(learners) == 1 + 2 + 4
        assert set(TrainedHere(folder)) == set(learners), "kdexp-work trains none of them again"
        trained.clear()


@pytest.mark.slow
@pytest.mark.parametrize("method", by_kind())
def test_lockstep_gives_the_weights_of_lone_runs(sweep, method):
    words = (*STAGED, *chosen(method), "distillation.temperature=1,4")
    _, _, alone = sweep(*words, place="alone")
    _, _, together = sweep(*words, place="together", lockstep=Lockstep(None))
    assert weights(alone) == weights(together)
    company = [stored.result["provenance"]["trained_side_by_side"] for stored in together.values()]
    assert max(company) == (1 if method == "none" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["teacher.hidden=[16],[32]", "teacher_seed=0,1", "dataset.student_fraction=0.1,0.2"])
def test_jobs_share_nothing_that_changes_their_results(sweep, axis):
    whole = ("limit_batches=null", "dataset.limit=300", "batch_size=10", "dataset.split_seed=0,1", axis)
    alone = {}
    for number, job in enumerate(expand(whole)):
        alone |= sweep(*job, place=f"alone-{number}")[2]
    for place, way in (("one by one", None), ("in lockstep", Lockstep(None))):
        _, _, together = sweep(*whole, place=place, lockstep=way)
        assert weights(alone) == weights(together)


@pytest.mark.slow
def test_a_value_means_the_same_in_any_spelling(here, tmp_path):
    assert here(*SHORT, "distillation.temperature=4.0")[0] == 0
    code, shown = here("-m", *SHORT, "distillation.temperature=4,8", "seed=0,1")
    assert code == 0 and "variant" not in shown.out


@pytest.mark.slow
def test_a_group_is_capped(sweep):
    _, _, learners = sweep("distillation.temperature=1,2,3,4", lockstep=Lockstep(2))
    assert max(stored.result["provenance"]["trained_side_by_side"] for stored in learners.values()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "hint", "crd", "mutual"])
def test_modules_of_a_method_count_as_memory(make_experiment, monkeypatch, method):
    experiment, free = make_experiment(f"distillation={method}"), 10**9
    entries, labels = [experiment.entry("distilled"), experiment.entry("baseline")], experiment.data.student_train.labels
    teacher = build_network(experiment.config["teacher"], experiment.shape)
    (learner, _), _ = prepare(entries, teacher, experiment.shape, experiment.precision, labels)
    trained = sum(value.numel() for module in (learner.model, learner.distiller) for value in module.parameters())
    remembered = sum(value.nbytes for value in learner.distiller.buffers())
    monkeypatch.setattr(lockstep, "free_memory", lambda device: free)
    assert lockstep.affordable(experiment, entries) == free // 2 // (24 * trained + remembered)


@pytest.mark.slow
def test_controls_join_the_lockstep(sweep):
    words = ("controls=[self_teacher,random_teacher,label_smoothing]", "seed=0,1")
    _, _, alone = sweep(*words, place="alone")
    _, screen, together = sweep(*words, place="together", lockstep=Lockstep(None))
    assert weights(alone) == weights(together) and "failed" not in screen


@pytest.mark.slow
@pytest.mark.parametrize("lockstep", [None, Lockstep(None)])
def test_a_failing_job_fails_alone_and_is_not_tried_twice(sweep, trained, lockstep):
    folder, screen, learners = sweep("optimizer=sgd", "optimizer.lr=0.05,1e30", "distillation=kd", lockstep=lockstep)
    states = [json.loads((folder / name / "status.json").read_text())["state"] for name in ("000", "001")]
    assert states == ["finished", "failed"]
    assert "baseline failed: ce loss became" in screen
    assert "; try optimizer.lr=1; distilled failed" in screen, "advice follows from the failing job's own rate"
    assert len(learners) == 3 and sum(trained.values()) == 5


@pytest.mark.slow
def test_after_an_error_in_lockstep_the_jobs_run_one_by_one(sweep, monkeypatch):
    def breaks(_experiments, _most):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(multirun, "train_together", breaks)
    folder, screen, learners = sweep("seed=0,1", lockstep=Lockstep(None))
    assert "warning: lockstep stopped (RuntimeError: out of memory); the jobs now run one by one" in screen
    assert len(learners) == 5 and "out of memory" in (folder / "log.txt").read_text()


def test_an_unexpected_error_fails_only_its_job(sweep, monkeypatch):
    def broken(experiment):
        if experiment.settings.seed == 0:
            raise ZeroDivisionError("whatever")
        return obtain(experiment)

    monkeypatch.setattr(multirun, "obtain", broken)
    folder, screen, _ = sweep("seed=0,1")
    assert "1/2  seed=0: failed: ZeroDivisionError: whatever;" in screen
    assert "ZeroDivisionError" in (folder / "000" / "traceback.txt").read_text()
    assert json.loads((folder / "001" / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_the_command_ends_with_the_table(here):
    code, shown = here("-m", *SHORT, "distillation.temperature=1,4", "seed=0,1")
    assert code == 0, shown.err
    assert shown.out.index("4/4  ") < shown.out.index("95 % interval")
    code, shown = here("-m", *SHORT, "optimizer=sgd", "optimizer@teacher_optimizer=adam", "optimizer.lr=0.05,1e30")
    assert code == 3 and "ce loss became" in shown.out


@pytest.mark.slow
def test_overrides_may_come_before_the_flag(here):
    assert here(*SHORT, "seed=0,1", "-m")[0] == 0


@pytest.mark.slow
def test_an_experiment_file_can_hold_a_sweep(here, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "grid.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      distillation.temperature: 1,4\n      seed: 0,1\n"
    )
    code, shown = here("--config-dir", "own", "experiment=grid", *SHORT)
    assert code == 0, shown.err
    assert "4 jobs" in shown.out
    code, shown = here("--config-dir", "own", "experiment=grid", *SHORT, "seed=5")
    assert "2 jobs" in shown.out


def test_all_jobs_are_checked_before_the_first_starts(here, tmp_path):
    code, shown = here("-m", "seed=0,1,2,3,4,5", "distillation.alpha=0.1,1.5")
    assert code == 2 and "distillation.alpha=1.5: must be at least 0 and at most 1" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_sweep_resumes_and_gives_the_same_results(tmp_path):
    words = [
        "-m",
        "epochs=3",
        "teacher_epochs=3",
        "limit_batches=2",
        "device=cpu",
        "distillation.temperature=1,4",
        "seed=0,1,2",
    ]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = command(tmp_path / "whole", words)
    whole.join()
    assert whole.exitcode == 0
    for seconds in (0.9, 1.2, 1.5):
        process = command(tmp_path / "killed", words)
        process.join(timeout=seconds)
        process.kill()
        process.join()
    last = command(tmp_path / "killed", words)
    last.join()
    assert last.exitcode == 0
    found = {}
    for name in ("whole", "killed"):
        outputs = tmp_path / name / "outputs"
        newest = max((outputs / "sweeps").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        store = LearnerStore(outputs / "store")
        keys = [path.name for path in store.root.iterdir() if path.is_dir()]
        found[name] = (newest / "sweep.csv").read_text(), weights({key: store.find(key) for key in keys})
    assert found["whole"] == found["killed"]


@pytest.mark.slow
def test_two_sweeps_at_once_train_each_learner_once(tmp_path):
    words = ["-m", "epochs=2", "teacher_epochs=20", "device=cpu", "distillation.temperature=1,4", "seed=0,1"]
    both = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        both.append(command(tmp_path / name, [*words, f"store={tmp_path}/store"]))
    for process in both:
        process.join(timeout=120)
    assert [process.exitcode for process in both] == [0, 0]
    learners = [path for path in (tmp_path / "store" / "learner").iterdir() if path.is_dir()]
    assert len(learners) == 1 + 2 + 4
    logs = "".join(path.read_text() for name in ("a", "b") for path in (tmp_path / name).glob("outputs/sweeps/*/*/log.txt"))
    assert logs.count("training teacher") == 1


def test_bitwise_comparisons_run_on_one_thread():
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_a_foreign_launcher_runs_every_job_and_returns_their_exit_codes(here, tmp_path, monkeypatch):
    (tmp_path / "own" / "hydra" / "launcher").mkdir(parents=True)
    launcher = "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    (tmp_path / "own" / "hydra" / "launcher" / "foreign.yaml").write_text(launcher)
    seen = []

    def run(config, typed):
        SourcesRegistry.instance().register(FileConfigSource)  # as in every new process; raises if another reader is there
        seen.append((config["seed"], config["choices"]["student"], list(typed)))
        return config["seed"] != 1

    monkeypatch.setattr("kdexp.commands.run.run", run)
    words = ("-m", "--config-dir", "own", "hydra/launcher=foreign", "epochs=3")
    assert here(*words, "seed=0,1,2")[0] == 3
    assert seen == [(seed, "mlp_small", ["epochs=3", f"seed={seed}"]) for seed in (0, 1, 2)]
    assert here(*words, "seed=0,2")[0] == 0
