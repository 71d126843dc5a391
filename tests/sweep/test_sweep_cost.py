"""Costs of a sweep apart from training: shared work is done once, and finished jobs leave nothing in memory."""

import gc
import io
import os
import time
import weakref
from collections import Counter

import pytest
import torch
from experiments import SHORT, compose_command
from rich.console import Console

from kdexp import files
from kdexp.commands import multirun
from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import Lockstep, run_jobs
from kdexp.configuration import compose, quoting
from kdexp.configuration import compose as composer
from kdexp.configuration.compose import Composer, as_yaml
from kdexp.configuration.jobs import expand
from kdexp.experiment import experiment, lockstep, setup
from kdexp.experiment import lookahead as wanted
from kdexp.training import sketch
from kdexp.validation import validator as validation
from kdexp.validation.jobs import compose_and_check

pytestmark = pytest.mark.usefixtures("without_pictures")

BRIEF = (*SHORT, "epochs=1", "teacher_epochs=1", "limit_batches=1")


@pytest.fixture
def sweep(tmp_path):
    """Composes, checks and runs a multirun of brief jobs."""

    def run(*words, lockstep=None):
        jobs = expand([f"output_dir={tmp_path}", *BRIEF, *words])
        configs, found = compose_and_check(jobs, Composer())
        assert not found
        numbered = [PlannedJob(number, *job) for number, job in enumerate(zip(jobs, configs, strict=True))]
        return run_jobs(numbered, words, lockstep, Console(file=io.StringIO()))

    return run


@pytest.fixture
def count(monkeypatch):
    """Counts the calls of a function, by the name it has in a module."""
    counts = Counter()

    def watch(module, name):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *words, **named: counts.update([name]) or real(*words, **named))

    watch.counts = counts
    return watch


@pytest.mark.slow
def test_hydra_composes_and_networks_are_checked_once_for_all_jobs(count):
    for module, name in ((composer, "compose_whole"), (validation, "check_network"), (sketch, "Capture")):
        count(module, name)
    jobs = expand(["distillation=hint", "distillation.temperature=1,2,3,4", "distillation.alpha=0.1,0.9", "seed=0,1,2"])
    configs, found = compose_and_check(jobs, Composer())
    assert len(configs) == 24 and not found
    assert count.counts == {"compose_whole": 1, "check_network": 2, "Capture": 2}


@pytest.mark.slow
@pytest.mark.parametrize("together", [None, Lockstep(None)])
def test_starting_weights_are_checked_once_for_all_jobs(sweep, count, together):
    count(experiment, "check_start")
    count(lockstep, "sketch_network")
    sweep("distillation.temperature=1,2,3", "seed=0,1", lockstep=together)
    assert count.counts["check_start"] == 3, "teacher, baseline, distilled"
    assert count.counts["sketch_network"] == (0 if together is None else 5), (
        "once for each company: its student and who teaches it"
    )


@pytest.mark.slow
def test_networks_are_inspected_once_for_the_layers_that_jobs_read(sweep, count):
    count(wanted, "sketch_network")
    sweep("distillation=kd,hint", "distillation.temperature=1,2,3", "seed=0,1")
    assert count.counts["sketch_network"] == 2, "student and teacher"


@pytest.mark.slow
def test_a_step_on_one_image_is_tried_once_for_each_distinct_method(sweep, count):
    count(experiment, "check_start")
    sweep("batch_size=89", "limit_batches=null", "distillation.temperature=1,2", "seed=0,1")
    assert count.counts["check_start"] == 4, "teacher, baseline, two distilled"


@pytest.mark.slow
def test_an_override_is_parsed_once_for_all_jobs():
    quoting._parse.cache_clear()
    made = Composer()
    for seed in (0, 1, 2):
        made.compose(["epochs=3", f"seed={seed}"])
    assert quoting._parse.cache_info().misses == 4, "epochs=3 and three seeds"


@pytest.mark.slow
def test_jobs_whose_learners_are_stored_read_each_file_once(sweep, monkeypatch):
    words = ("distillation.temperature=1,4", "seed=0,1,2")
    sweep(*words)
    read, real = Counter(), files._read_digest
    monkeypatch.setattr(files, "SETTLED", 0)
    monkeypatch.setattr(files, "_read_digest", lambda path, *rest: read.update([path]) or real(path, *rest))
    files._cached_digest.cache_clear()
    sweep(*words)
    assert {path.name for path in read} >= {"last.safetensors", "training.pt", "mlp.py"}
    assert set(read.values()) == {1}


def test_a_file_that_changed_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("a")
    young = files.file_digest(path)
    path.write_text("b")
    assert files.file_digest(path) != young, "so soon that the times of the two may be the same"
    monkeypatch.setattr(files, "SETTLED", 0)
    known, then = files.file_digest(path), path.stat().st_mtime_ns
    time.sleep(0.05)
    path.write_text("a")
    os.utime(path, ns=(then, then))
    assert files.file_digest(path) == young != known, "although it looks as old as before"


@pytest.mark.slow
def test_a_configuration_is_written_like_omegaconf_but_only_where_it_changed(count):
    count(compose.OmegaConf, "to_yaml")
    words = ["student.hidden=[8]", "distillation.alpha=null", "store='a: \"b\" ü'", "+student.extra={1: 2, 0: [{x: null}]}"]
    for seed in (0, 1, 2):
        composed = compose_command([*words, f"seed={seed}"])
        assert as_yaml(composed) == as_yaml(Composer().compose([*words, f"seed={seed}"]))
    assert count.counts["to_yaml"] <= len(composed) + 2 + 3, "every key once, the seed each time; the composer looks, too"
    assert as_yaml(composed) == compose.OmegaConf.to_yaml(composed)


@pytest.mark.slow
@pytest.mark.parametrize("together", [None, Lockstep(None)])
def test_a_finished_job_leaves_nothing_in_memory(sweep, monkeypatch, together):
    alive, real = {}, multirun.run_job

    def counted(job, *rest):
        if job.number in (5, 25):
            gc.collect()
            alive[job.number] = Counter(type(thing) for thing in gc.get_objects())
        return real(job, *rest)

    monkeypatch.setattr(multirun, "run_job", counted)
    sweep("distillation.temperature=1,4", "seed=0,1,2,3,4,5,6,7,8,9,10,11,12", lockstep=together)
    grown = alive[25] - alive[5]
    own = {kind: number for kind, number in grown.items() if kind.__module__.startswith(("kdexp", "torch", "omegaconf"))}
    assert not own
    assert grown.total() < 20 * 100, "caches of the standard library, which have a limit"


@pytest.mark.slow
@pytest.mark.parametrize("together", [None, Lockstep(None)])
def test_one_data_set_is_in_memory_at_a_time(sweep, monkeypatch, together):
    loaded, others, real = [], [], setup.load

    def watched(*words):
        others.append(sum(data() is not None for data in loaded))
        data = real(*words)
        loaded.append(weakref.ref(data))
        return data

    monkeypatch.setattr(setup, "load", watched)
    sweep("distillation=none", "seed=0,1", "dataset.split_seed=0,1", lockstep=together)
    assert len(others) >= 2 and not any(others), "the one before is gone when the next is read"


@pytest.mark.slow
def test_a_job_costs_little_apart_from_training(sweep):
    words = ("distillation.temperature=1,4", "seed=0,1,2,3,4")
    sweep(*words)
    begin = time.process_time()
    sweep(*words)
    assert torch.get_num_threads() == 1
    assert (time.process_time() - begin) / 10 < 0.3, "a loose floor: it is about 0.015 s where nothing else runs"
