"""Recorded steps: the same training as plain steps for every method, and no step needs the host."""

from contextlib import nullcontext

import pytest
import torch
from each_method import PAIR, SLOWED, by_kind, chosen, class_of, role_of
from loops import Operators, Silent, first_read, fresh, look_up, quiet_training
from on_meta import let_meta_train, prepared_on_meta
from shipped import options
from torch import nn

from kdexp.device.cuda_graphs import HostReads, buffers_in_place
from kdexp.distillation.base import Progress
from kdexp.distillation.kd import KD
from kdexp.training import recorded_steps as graph
from kdexp.training.loop import Steps

METHODS = options("distillation")
SMALL = (
    "batch_size=16",
    "limit_batches=null",
    "epochs=3",
    "fast=true",
    "optimizer.lr=0.0009765625",
    "teacher_optimizer.lr=0.0009765625",
)
"""The learning rate is exact in fp32; 90 images make five full batches and one of ten."""


@pytest.fixture(autouse=True)
def without_onednn():
    """On some CPUs oneDNN's gradient of convolutions of a few channels corrupts the heap ("free(): invalid size")."""
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = True


@pytest.fixture
def recorded(monkeypatch):
    """Has `record_graph` return the work itself, which is what a graph replays; lists what was recorded."""
    recordings = []

    def record(work, generators):
        recordings.append(work)
        return work

    monkeypatch.setattr(graph, "record_graph", record)
    return recordings


@pytest.fixture
def unwatched(monkeypatch):
    """Leaves operators alone: autograd then keeps the memory format of some gradients, in which sums may round differently."""

    class Unwatched(nullcontext):
        names = ()

        def __init__(self, allowed):
            super().__init__(self)

    monkeypatch.setattr(graph, "HostReads", Unwatched)


def trained(experiment, *roles, epochs=3, change=lambda *_: None):
    learners, teacher = fresh(experiment, *roles)
    change(*learners)
    split = experiment.data.student_train
    teacher = teacher if any(learner.distiller.uses_teacher for learner in learners) else None
    if teacher:
        look_up(teacher, split)
    quiet_training(learners, split, teacher, experiment.data.validation, epochs=epochs, batch_size=16)
    return learners


def assert_same(ours, theirs, epochs=3):
    mine, others = ours.state_dict(), theirs.state_dict()
    assert ours.history == theirs.history and len(ours.history) == epochs
    assert mine.keys() == others.keys()
    assert [name for name in mine if not torch.equal(mine[name], others[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_equal_plain_steps_bitwise(make_experiment, recorded, unwatched, method):
    options = (*PAIR, *SMALL, *SLOWED.get(method, ()), *chosen(method))
    (usual,) = trained(make_experiment(*options), role_of(method), epochs=2)
    assert not recorded
    (learner,) = trained(make_experiment(*options, "graph=true"), role_of(method), epochs=2)
    assert not learner.failure and not learner.remark
    assert len(recorded) == (2 if method in SLOWED else 1)
    assert_same(learner, usual, epochs=2)
    assert learner.log.seconds > 0


PHASES = {
    "feature_pretraining": ("distillation.label_free=0.5", "distillation.finetune=classifier", "dataset.crop_padding=1"),
    "mpl": ("distillation.finetune_epochs=1", "distillation.student_wait=0", "distillation.finetune_lr=0.0078125"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", PHASES)
def test_recorded_steps_follow_phases_that_read_less(make_experiment, recorded, unwatched, method):
    """Without the teacher, with frozen features, without unlabelled images."""
    options = (*PAIR, *SMALL, *chosen(method), *PHASES[method])
    (usual,) = trained(make_experiment(*options), "distilled")
    (learner,) = trained(make_experiment(*options, "graph=true"), "distilled")
    assert not learner.failure and not learner.remark and len(recorded) == 2, learner.traceback
    assert_same(learner, usual)


@pytest.mark.slow
def test_recorded_steps_weigh_classes(make_experiment, recorded, unwatched):
    options = (*PAIR, *SMALL, "distillation=kd", "class_weights=[3,1,1,1,1,1,1,1,1,2]")
    (usual,) = trained(make_experiment(*options), "distilled")
    (learner,) = trained(make_experiment(*options, "graph=true"), "distilled")
    assert len(recorded) == 1 and not learner.remark
    assert_same(learner, usual)
    (without,) = trained(make_experiment(*options[:-1]), "distilled")
    assert without.history != usual.history


@pytest.mark.slow
def test_recorded_steps_update_the_moving_average(make_experiment, recorded, unwatched):
    options = (*PAIR, *SMALL, "distillation=kd", "averaging=ema")
    (usual,) = trained(make_experiment(*options), "distilled")
    (learner,) = trained(make_experiment(*options, "graph=true"), "distilled")
    assert len(recorded) == 1 and not learner.remark
    assert_same(learner, usual)
    assert int(learner.average.steps) == int(usual.average.steps) == 18


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_recorded_steps_follow_changing_learning_rates(make_experiment, recorded, monkeypatch, optimizer):
    rates = ("schedule=cosine", "schedule.warmup_epochs=1", "optimizer.weight_decay=0", "dataset.crop_padding=1")
    options = (*PAIR, *SMALL, *rates, f"optimizer={optimizer}", "optimizer.lr=0.01", "optimizer.clip_norm=1", "graph=true")
    (learner,) = trained(make_experiment(*options), "distilled")
    assert recorded
    monkeypatch.setattr(graph, "RecordedSteps", Steps)
    (usual,) = trained(make_experiment(*options), "distilled")
    assert_same(learner, usual)


@pytest.mark.slow
def test_learners_recorded_together_equal_learners_recorded_alone(make_experiment, recorded):
    nets = ("teacher=lightnn", "student=lightnn", "distillation=hint", *SMALL, "graph=true")  # with dropout
    company = trained(make_experiment(*nets), "baseline", "distilled")
    assert len(recorded) == 1
    for role, learner in zip(("baseline", "distilled"), company, strict=True):
        assert_same(learner, trained(make_experiment(*nets), role)[0])


@pytest.mark.slow
def test_strong_augmentation_is_recorded_with_the_step(make_experiment, recorded, monkeypatch):
    monkeypatch.setattr("kdexp.data.randaugment.steps.fixed_shapes", lambda device: True)  # as on a GPU
    options = (*PAIR, *SMALL, "strong@dataset.strong=fixmatch", "dataset.crop_padding=1", "graph=true")
    (learner,) = trained(make_experiment(*options), "distilled")
    assert recorded
    monkeypatch.setattr(graph, "RecordedSteps", Steps)
    (usual,) = trained(make_experiment(*options), "distilled")
    assert_same(learner, usual)


@pytest.mark.slow
def test_batches_made_off_the_device_are_copied_to_it(make_experiment, recorded, monkeypatch):
    options = (*PAIR, *SMALL, "graph=true", "dataset.crop_padding=1", "distillation=at")
    (recorded_whole,) = trained(make_experiment(*options), "distilled")
    monkeypatch.setattr("kdexp.data.split.Split.static", False)
    (learner,) = trained(make_experiment(*options), "distilled")
    assert_same(learner, recorded_whole)


@pytest.mark.slow
def test_a_method_that_is_not_capturable_takes_plain_steps_next_to_the_others(make_experiment, recorded):
    options = (*PAIR, *SMALL, "distillation=hint", "distillation._target_=own_methods.Remember")
    options = (*options, "graph=true")
    baseline, distilled = trained(make_experiment(*options), "baseline", "distilled")
    assert distilled.remark == "graph=true: its steps are not recorded, since Remember does not declare them capturable"
    assert not baseline.remark and len(recorded) == 1
    for role, learner in (("baseline", baseline), ("distilled", distilled)):
        assert_same(learner, trained(make_experiment(*options), role)[0])


class Inherits(KD):
    """It declares nothing itself."""


def test_capturable_is_not_inherited():
    shared = {"temperature": 1.0, "alpha": None, "ce_weight": None, "kd_weight": None}
    assert KD(**shared).capturable and not Inherits(**shared).capturable


@pytest.mark.slow
def test_a_network_that_reads_values_takes_plain_steps(make_experiment, recorded):
    options = (*SMALL, "teacher._target_=own_networks.NormNet", "student._target_=own_networks.LooksAtValues", "graph=true")
    options = (*options, "~teacher.hidden", "~student.hidden")
    (learner,) = trained(make_experiment(*options), "distilled")
    assert learner.remark.endswith("they need the host (_local_scalar_dense)")
    assert not recorded and len(learner.history) == 3 and not learner.failure


@pytest.mark.slow
@pytest.mark.parametrize("static", [True, False], ids=["made on the device", "fetched ahead"])
def test_an_error_while_recording_ends_only_the_recorded_learners(make_experiment, monkeypatch, static):
    def failing(work, generators):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "record_graph", failing)
    monkeypatch.setattr("kdexp.data.split.Split.static", static)
    options = (*PAIR, *SMALL, "distillation=hint", "distillation._target_=own_methods.Remember", "graph=true")
    baseline, distilled = trained(make_experiment(*options), "baseline", "distilled")
    assert baseline.failure.startswith(
        "the step can't be recorded: operation not permitted when stream is capturing; graph=false runs without"
    )
    assert not baseline.history and len(distilled.history) == 3
    assert_same(distilled, trained(make_experiment(*options), "distilled")[0])


@pytest.mark.slow
def test_a_resumed_training_is_recorded(make_experiment, recorded):
    options = (*PAIR, *SMALL, "distillation=crd", "graph=true")
    (whole,) = trained(make_experiment(*options), "distilled")
    (first,) = trained(make_experiment(*options), "distilled", epochs=1)
    kept = first.progress()
    (resumed,) = trained(make_experiment(*options), "distilled", change=lambda learner: learner.resume(kept))
    assert resumed.continued_after == [1]
    assert_same(resumed, whole)


def places(learner):
    """The addresses of everything that a step of a learner changes."""
    state = [value for group in learner.optimizer.state.values() for value in group.values()]
    modules = [tensor for module in learner.changing for tensor in (*module.parameters(), *module.buffers())]
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    return [tensor.data_ptr() for tensor in [*modules, *state, *rates]]


@pytest.mark.slow
@pytest.mark.parametrize("method", by_kind())
def test_tensors_that_a_recorded_step_changes_keep_their_memory(make_experiment, monkeypatch, method):
    watched, seen = [], []

    def record(work, generators):
        before = places(watched[0])

        def replay():
            work()
            seen.append(places(watched[0]) == before)

        return replay

    monkeypatch.setattr(graph, "record_graph", record)
    experiment = make_experiment(*PAIR, *SMALL, "graph=true", "optimizer=sgd", *chosen(method))
    (learner,) = trained(experiment, role_of(method), change=watched.append)
    full = 6 if class_of(method).unlabelled else 5
    phases = len({str(learner.distiller.phase(Progress(epoch, 3, 0))) for epoch in (0.1, 1.1, 1.9, 2.9)})  # each begins plainly
    assert not learner.failure and seen == [True] * (3 * full - graph.WARM_UP - phases + 1), learner.traceback


def test_a_replaced_buffer_keeps_its_memory():
    module = nn.Module()
    module.inner = nn.Module()
    module.inner.register_buffer("memory", torch.zeros(3))
    place = module.inner.memory
    with buffers_in_place(module):
        module.inner.memory = module.inner.memory + 2
    assert module.inner.memory is place and place.tolist() == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_steps_in_one_phase_do_not_depend_on_the_progress(make_experiment, monkeypatch, method):
    options = (*PAIR, *SMALL, *chosen(method), *SLOWED.get(method, ()))
    found = []
    for progress in (Progress(3.5, 10, 100), Progress(8.25, 10, 777)):
        experiment = make_experiment(*options)
        (learner,), teacher = fresh(experiment, role_of(method))
        learner.train()
        scheduled = learner.distiller.scheduled(Progress(3.5, 10, 100))  # what a recorded step reads anew each time
        monkeypatch.setattr(type(learner.distiller), "scheduled", lambda self, progress, numbers=scheduled: numbers)
        learner.step(*first_read(learner, teacher, experiment.data.student_train, 16), progress)
        monkeypatch.undo()
        assert not learner.failure
        found.append((learner.distiller.phase(progress), learner.log.trace[0], learner.state_dict()))
    (phase, numbers, state), (other_phase, other_numbers, other_state) = found
    assert phase == other_phase and torch.equal(numbers, other_numbers)
    assert all(torch.equal(state[name], other_state[name]) for name in state)


PLAIN = [(method, False) for method in ("kd", "hint", "crd", "mutual")]
"""Recorded steps are warmed up by plain ones, so that a few methods are enough here."""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "recording"), [*((method, True) for method in METHODS), *PLAIN])
def test_an_epoch_copies_one_tensor_to_the_host_and_its_order_to_the_device(
    make_experiment, recorded, monkeypatch, method, recording
):
    copies = let_meta_train(monkeypatch)
    experiment = make_experiment(*PAIR, *chosen(method), "dataset.crop_padding=1")
    (learner,), teacher, split = prepared_on_meta(experiment, [role_of(method)], 72, fast=True, graph=recording)
    monkeypatch.setattr("kdexp.training.learner.Learner.record_epoch", lambda self, numbers, validated: self.history.append({}))
    teacher = teacher if learner.distiller.uses_teacher else None
    with HostReads() as reads:
        quiet_training([learner], split, teacher, split, epochs=2, batch_size=16)
    assert not learner.failure and not learner.remark, learner.traceback
    assert len(copies) == 2, "copies to the host in two epochs"
    steps = Steps(split, teacher, 2, 16, 0, None)
    drawn = steps.draw(0, steps.views([learner]), steps.unlabelled([learner], 0))
    draws = sum(len(part._tensors()) for part in (drawn, drawn.unlabelled) if part is not None)  # orders, views, shares
    assert draws == {"weak": 2, "mixed": 4}[learner.distiller.student_view] or drawn.unlabelled is not None
    changing = 1 + len(learner.distiller.scheduled(steps.progress(0, 0)))  # the learning rates, and what a method schedules
    brought = ["_to_copy"] * draws + ["copy_"] * changing * recording
    assert sorted(reads.names) == sorted(2 * brought)
    assert len(recorded) == recording * (2 if method in SLOWED else 1)
    if recording:
        with HostReads() as reads:
            recorded[-1]()
        assert reads.names == []


OPERATORS = {
    ("kd", "mlp_wide", "mlp_small"): 99,
    ("hint", "resnet14", "resnet8"): 178,
    ("crd", "resnet14", "resnet8"): 342,
}
"""Operators of one step, with making its batch and looking up the teacher's outputs, by method, teacher and student."""


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "pinned"), OPERATORS.items())
def test_the_number_of_operators_of_a_step(make_experiment, pair, pinned):
    torch.backends.mkldnn.enabled = True  # the operators that are counted are its
    method, teacher_name, student = pair
    experiment = make_experiment(*chosen(method), f"teacher={teacher_name}", f"student={student}", "fast=true")
    (learner,), teacher = fresh(experiment, "distilled")
    split = experiment.data.student_train
    look_up(teacher, split)
    teacher.prepare_all(split)
    shown = split.epoch(0, 0)
    learner.train()
    steps = Steps(split, teacher, epochs=1, batch_size=16, seed=0, limit_batches=1)
    steps.take([learner], 0, steps.draw(0), Silent())
    with Operators() as seen:
        batch = split.batch(next(shown.split(16)))
        learner.step(batch, teacher(batch), Progress(0.5, 1, 1))
    counted = len(seen.names)
    assert counted == pinned, f"{method} of {teacher_name} to {student}: {pinned} operators a step before, {counted} now"
