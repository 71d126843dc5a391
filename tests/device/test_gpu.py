"""On a CUDA device: recorded steps are replayed on their own streams, and train the same."""

import pytest
import torch
from each_method import METHODS, PAIR, SLOWED, chosen, role_of
from loops import Silent, look_up, prepared, quiet_training

from kdexp.device.random import RandomStream
from kdexp.experiment.obtain import obtain
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.lookup import LookupSource, choose_lookup
from kdexp.training import recorded_steps as graph
from kdexp.training.loop import Steps
from kdexp.training.recorded_steps import RecordedSteps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CUDA = torch.device("cuda")
LONG = ("device=cuda", "precision=fp32", "batch_size=16", "limit_batches=null", "epochs=4", "graph=true", "fast=false")
"""24 steps: in each epoch five on full batches and one on ten images."""


@pytest.fixture(autouse=True)
def repeatable(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def trained(experiment, *roles):
    learners, teacher = prepared(experiment, *roles)
    split = experiment.data.student_train
    teacher = teacher if any(learner.distiller.uses_teacher for learner in learners) else None
    if teacher:
        look_up(teacher, split)
    quiet_training(learners, split, teacher, experiment.data.validation, epochs=4, batch_size=16)
    return learners


def assert_near(ours, theirs):
    """Much nearer than with another batch, mask or rate; kernels that add in any order don't allow equality."""
    assert not ours.failure and not ours.remark, ours.traceback or ours.remark
    for mine, other in zip(ours.history, theirs.history, strict=True):
        losses = {name: value for name, value in mine.items() if not name.endswith("accuracy")}
        assert losses == pytest.approx({name: other[name] for name in losses}, rel=1e-3, abs=1e-5)


def with_and_without(make_experiment, monkeypatch, *overrides, role="distilled"):
    (learner,) = trained(make_experiment(*LONG, *overrides), role)
    monkeypatch.setattr(graph, "RecordedSteps", Steps)
    (usual,) = trained(make_experiment(*LONG, *overrides), role)
    return learner, usual


@pytest.mark.parametrize("method", METHODS)
def test_replayed_steps_equal_plain_steps(make_experiment, monkeypatch, method):
    overrides = (*PAIR, *SLOWED.get(method, ()), *chosen(method))
    assert_near(*with_and_without(make_experiment, monkeypatch, *overrides, role=role_of(method)))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("more", [("precision=fp32",), ("precision=bf16", "fast=true")])
def test_with_dropout_views_and_rates_that_change(make_experiment, monkeypatch, optimizer, more):
    nets = ("teacher=lightnn", "student=lightnn", "distillation=hint", "dataset.crop_padding=1")
    rates = (f"optimizer={optimizer}", "schedule=cosine", "schedule.warmup_epochs=1", "optimizer.clip_norm=1")
    assert_near(*with_and_without(make_experiment, monkeypatch, *nets, *rates, *more))


def test_learners_replayed_together_equal_learners_replayed_alone(make_experiment):
    nets = (*LONG, "teacher=lightnn", "student=lightnn", "distillation=hint")
    company = trained(make_experiment(*nets), "baseline", "distilled")
    for role, learner in zip(("baseline", "distilled"), company, strict=True):
        assert_near(learner, trained(make_experiment(*nets), role)[0])


class ForbidsWaiting(Silent):
    """Raises if the host waits between the first step of an epoch and the fifth, the last one on a full batch."""

    def __init__(self):
        self.steps = 0

    def step(self, learners):
        self.steps += 1
        torch.cuda.set_sync_debug_mode("error" if self.steps < 5 else "default")


def test_the_host_neither_waits_nor_copies_while_steps_are_replayed(make_experiment):
    experiment = make_experiment(*LONG, *PAIR, "distillation=at")
    learners, teacher = prepared(experiment, "baseline", "distilled")
    split = experiment.data.student_train
    look_up(teacher, split)
    teacher.prepare_all(split)
    steps = RecordedSteps(split, teacher, 2, 16, 0, None)
    for learner in learners:
        learner.train()
    steps.take(learners, 0, steps.draw(0), Silent())
    try:
        steps.take(learners, 1, steps.draw(1), ForbidsWaiting())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not any(learner.failure or learner.remark for learner in learners)


def test_a_random_stream_draws_like_a_plain_script_and_is_independent():
    outside = torch.cuda.get_rng_state()
    stream = RandomStream(7, CUDA)
    with stream:
        first = torch.rand(5, device=CUDA)
    states = [state.clone() for state in stream.states]
    with stream:
        second = torch.rand(5, device=CUDA)
    assert torch.equal(outside, torch.cuda.get_rng_state())
    stream.states = states
    with stream:
        assert torch.equal(second, torch.rand(5, device=CUDA))
    torch.manual_seed(7)
    assert torch.equal(torch.stack([first, second]), torch.stack([torch.rand(5, device=CUDA) for _ in range(2)]))
    torch.cuda.set_rng_state(outside)


def test_a_graph_run_is_stored_under_its_own_precision(make_experiment):
    entries = obtain(make_experiment("device=cuda", "graph=true", "fast=false", "limit_batches=null"))
    assert all(entry.stored and not entry.failure for entry in entries)
    assert {entry.spec.precision for entry in entries} == {"tf32 graph"}
    assert all(entry.stored.result["train_seconds"] > 0 for entry in entries)


@pytest.mark.parametrize("more", [(), ("precision=tf32",), ("precision=bf16", "fast=true")])
@pytest.mark.parametrize("method", METHODS)
def test_rounding_is_not_taken_for_a_difference(make_experiment, method, more):
    overrides = (*PAIR, *SLOWED.get(method, ()), *chosen(method), "graph=auto", *more)
    (learner,) = trained(make_experiment(*LONG, *overrides), role_of(method))
    assert not learner.failure and not learner.remark


def test_after_a_step_that_can_not_be_recorded_plain_ones_and_other_recordings_go_on(make_experiment, monkeypatch):
    work = RecordedSteps._recorded_work

    def waits(self, recording, progress):
        work(self, recording, progress)
        recording.number.item()

    words = (*LONG, "teacher=lightnn", "student=lightnn", "distillation=hint", "graph=auto")
    with monkeypatch.context() as patched:
        patched.setattr(RecordedSteps, "_recorded_work", waits)
        (learner,) = trained(make_experiment(*words), "distilled")
    assert "its steps are not recorded, since the step can't be recorded: " in learner.remark
    assert not learner.failure and len(learner.history) == 4
    (other,) = trained(make_experiment(*words), "distilled")
    assert_near(other, learner)


def test_both_ways_of_asking_a_teacher_are_measured(make_experiment):
    experiment = make_experiment(*LONG, *PAIR, "distillation=kd", "dataset.crop_padding=1", "dataset.flip=true")
    _, teacher = prepared(experiment, "distilled")
    found = choose_lookup(teacher, experiment.data.student_train, LookupSource("", OutputCache(), None), epochs=4)
    assert found.kind in ("live", "views") and "ms in the step" in found.reason


@pytest.mark.slow
def test_compiled_networks_are_replayed_too(make_experiment, monkeypatch):
    nets = (*PAIR, "distillation=at", "compile=true")
    assert_near(*with_and_without(make_experiment, monkeypatch, *nets))
