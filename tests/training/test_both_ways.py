"""Recorded steps that nobody asked for by name are compared with plain ones before they are trusted."""

from dataclasses import replace

import pytest
import torch
from each_method import PAIR, SLOWED
from loops import fresh, quiet_training

from kdexp.training import both_ways
from kdexp.training import recorded_steps as graph
from kdexp.training.both_ways import BOUNDS, BothWays

pytestmark = pytest.mark.slow
SHORT = (*PAIR, "batch_size=16", "limit_batches=null", "optimizer.lr=0.01", "fast=true", "dataset.crop_padding=1")
"""90 images make five full batches and one of ten."""


def on_trial(experiment):
    """The experiment as it would be with graph=auto on CUDA."""
    experiment.precision = replace(experiment.precision, graph=True, auto=("graph",))
    return experiment


def on_trust(experiment):
    experiment.precision = replace(experiment.precision, graph=True)
    return experiment


def trained(experiment, *roles, epochs=2):
    learners, teacher = fresh(experiment, *roles)
    quiet_training(learners, experiment.data.student_train, teacher, experiment.data.validation, epochs=epochs, batch_size=16)
    return learners


@pytest.fixture
def recorded(monkeypatch):
    """Records steps as the work itself, as it is changed by a function of the learners; lists the recordings."""
    recordings = []

    def record_with(change=lambda recording: None):
        def record(self, recording, progress):
            recordings.append(recording)
            work = lambda: self._recorded_work(recording, progress)  # noqa: E731

            def replay():
                work()
                change(recording)

            return replay

        monkeypatch.setattr(graph.RecordedSteps, "record", record)
        return recordings

    return record_with


def same(ours, theirs):
    mine, others = ours.state_dict(), theirs.state_dict()
    return ours.history == theirs.history and all(torch.equal(mine[name], others[name]) for name in mine)


@pytest.mark.parametrize("static", [True, False], ids=["made on the device", "fetched ahead"])
@pytest.mark.parametrize("method", ["kd", "crd", "dkd"])
def test_a_comparison_leaves_no_trace(make_experiment, recorded, monkeypatch, method, static):
    monkeypatch.setattr("kdexp.data.split.Split.static", static)
    words = (*SHORT, f"distillation={method}", *SLOWED.get(method, ()))
    recordings = recorded()
    (trusted,) = trained(on_trust(make_experiment(*words)), "distilled")
    assert len(recordings) == (2 if method in SLOWED else 1)
    (checked,) = trained(on_trial(make_experiment(*words)), "distilled")
    assert not checked.remark and not checked.failure
    assert len(recordings) == (4 if method in SLOWED else 2)
    assert same(checked, trusted)


def test_dropout_is_drawn_as_if_nothing_had_been_compared(make_experiment, recorded):
    recorded()
    words = (*SHORT[len(PAIR) :], "teacher=lightnn", "student=lightnn", "distillation=hint")
    ours, theirs = (trained(way(make_experiment(*words)), "baseline", "distilled") for way in (on_trial, on_trust))
    assert all(same(mine, other) for mine, other in zip(ours, theirs, strict=True))
    assert not any(learner.remark for learner in ours)


def shift_weights(recording):
    learner = recording.learners[-1]
    if learner.name != "distilled":
        return
    with torch.no_grad():
        for weight in learner.model.parameters():
            weight.add_(0.003)


def shift_statistics(recording):
    learner = recording.learners[-1]
    if learner.name != "distilled":
        return
    for name, buffer in learner.model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.1)


def shift_losses(recording):
    if recording.learners[-1].name == "distilled":
        recording.traces[-1].mul_(1.01)


def spoil_losses(recording):
    if recording.learners[-1].name == "distilled":
        recording.traces[-1].fill_(float("nan"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (shift_weights, "losses differ"),
        (shift_statistics, "changes of the buffers differ"),
        (shift_losses, "losses differ"),
        (spoil_losses, "losses differ"),
    ],
)
def test_learners_whose_recorded_steps_differ_take_plain_ones(make_experiment, recorded, change, what):
    words = (*SHORT, "distillation=kd")
    recordings = recorded(change)
    baseline, distilled = trained(on_trial(make_experiment(*words)), "baseline", "distilled")
    assert distilled.remark.startswith(
        f"graph=auto: its steps are not recorded, since their {what} from those of plain steps by "
    )
    assert not distilled.failure and len(distilled.history) == 2
    assert not baseline.remark and not baseline.failure and len(baseline.history) == 2
    assert [len(recording.learners) for recording in recordings] == [2, 1], "the other one is recorded alone"


def plainly(monkeypatch, experiment, *roles):
    monkeypatch.setattr(graph, "RecordedSteps", graph.Steps)
    return trained(experiment, *roles)


def test_plain_steps_after_a_difference_are_those_of_a_training_without_recording(make_experiment, recorded, monkeypatch):
    recorded(shift_weights)
    (learner,) = trained(on_trial(make_experiment(*SHORT, "distillation=kd")), "distilled")
    (usual,) = plainly(monkeypatch, on_trust(make_experiment(*SHORT, "distillation=kd")), "distilled")
    assert learner.remark and same(learner, usual)


@pytest.mark.parametrize("static", [True, False], ids=["made on the device", "fetched ahead"])
def test_a_step_that_can_not_be_recorded_is_taken_plainly(make_experiment, monkeypatch, static):
    def failing(work, generators):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "record_graph", failing)
    monkeypatch.setattr("kdexp.data.split.Split.static", static)
    learners = trained(on_trial(make_experiment(*SHORT, "distillation=kd")), "baseline", "distilled")
    for learner in learners:
        assert "its steps are not recorded, since the step can't be recorded: operation not permitted" in learner.remark
    usual = plainly(monkeypatch, on_trust(make_experiment(*SHORT, "distillation=kd")), "baseline", "distilled")
    assert all(same(mine, other) for mine, other in zip(learners, usual, strict=True))


def test_a_later_phase_that_differs_keeps_what_was_recorded_before(make_experiment, recorded, monkeypatch):
    words = (*SHORT, "distillation=dkd", *SLOWED["dkd"])
    recordings = []

    def late(recording):
        recordings.append(recording)
        if recording.phases != first:
            shift_weights(recording)

    experiment = on_trial(make_experiment(*words))
    first = [trained(on_trust(make_experiment(*words)), "distilled", epochs=1)[0].distiller.phase(graph.Progress(0.5, 2, 0))]
    recorded(late)
    (learner,) = trained(experiment, "distilled")
    (usual,) = plainly(monkeypatch, on_trust(make_experiment(*words)), "distilled")
    assert learner.remark and learner.history == usual.history and same(learner, usual)


class Other:
    """Takes the second way's steps in another manner."""

    @staticmethod
    def rate(learner):
        learner._base_rates = [1.5 * rate for rate in learner._base_rates]

    @staticmethod
    def mask(learner):
        learner.stream.states = type(learner.stream)(99, torch.device("cpu")).states


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("what", ["nothing", "rate", "mask", "batch"])
def test_bounds_tell_rounding_from_another_rate_mask_or_batch(make_experiment, optimizer, what, precision):
    nets = ("teacher=lightnn", "student=lightnn", "distillation=hint", f"optimizer={optimizer}", "optimizer.lr=0.01")
    experiment = make_experiment(*nets, "batch_size=16", "limit_batches=null")
    (learner,), teacher = fresh(experiment, "distilled")
    steps = graph.Steps(experiment.data.student_train, teacher, 2, 16, 0, None)
    batches = list(steps.split.batches(16, seed=0, epoch=0))
    learner.train()

    def take(numbers):
        for number in numbers:
            learner.step(batches[number], teacher(batches[number]), steps.progress(0, number))

    take(range(3))
    with BothWays([learner]) as ways:
        take([3, 4])
        ways.plain_taken()
        with torch.no_grad():  # as large as the rounding of a precision that keeps ten bits
            for weight in learner.model.parameters():
                weight.mul_(1 + 2**-24)
        if what in ("rate", "mask"):
            getattr(Other, what)(learner)
        take([3, 4] if what != "batch" else [1, 2])
        (words,) = ways.differences([torch.stack(learner.log.trace[3:])], precision)
    assert bool(words) == (what != "nothing"), words
    assert len(learner.log.trace) == 3


def test_a_training_that_diverges_is_not_called_a_difference(make_experiment, recorded):
    recorded()
    (learner,) = trained(on_trial(make_experiment(*SHORT, "optimizer=sgd", "optimizer.lr=1e30")), "distilled")
    assert "became" in learner.failure and not learner.remark


def test_plain_steps_of_a_comparison_that_fail_are_left_to_the_training(make_experiment, recorded, monkeypatch):
    """Memory may be short while two copies of the weights lie there."""
    recorded()
    once = []

    def fails_once(self, *kinds):
        if not once:
            once.append(self)
            raise MemoryError("no room for copies")
        return original(self, *kinds)

    original = both_ways.Snapshot.copied
    monkeypatch.setattr(both_ways.Snapshot, "copied", fails_once)
    (learner,) = trained(on_trial(make_experiment(*SHORT, "distillation=kd")), "distilled")
    assert learner.remark.endswith("since no room for copies") and not learner.failure and len(learner.history) == 2


def test_cudnn_looks_for_algorithms_before_a_recording_and_never_else(make_experiment, monkeypatch):
    seen, step = [], graph.Learner.step

    def spy(self, *given):
        seen.append(("step", torch.backends.cudnn.benchmark))
        step(self, *given)

    def record(work, generators):
        seen.append(("recording", torch.backends.cudnn.benchmark))
        return lambda: seen.append(("replay", torch.backends.cudnn.benchmark)) or work()

    monkeypatch.setattr(graph.Learner, "step", spy)
    monkeypatch.setattr(graph, "record_graph", record)
    trained(on_trust(make_experiment(*SHORT, "distillation=kd")), "distilled")
    first = [("step", True)] * 3 + [("recording", False)] + [("replay", False)] * 2 + [("step", False)]
    assert seen == [*first, *[("replay", False)] * 5, ("step", False)]
    assert not torch.backends.cudnn.benchmark
