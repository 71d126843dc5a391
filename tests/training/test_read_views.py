"""Students and teachers that read named views: what reaches each network, and that no learner notices another's choice."""

import dataclasses

import pytest
import torch
from experiments import said
from loops import first_read, fresh, look_up, quiet_training

from kdexp.data.split import Split
from kdexp.data.views import MIXED, PLAIN, WEAK, WEAK2, Reading
from kdexp.device.random import RandomStream
from kdexp.experiment.obtain import obtain
from kdexp.experiment.session import Session
from kdexp.network.build import build_network
from kdexp.teacher.frozen import Teacher
from kdexp.training import recorded_steps as graph
from kdexp.training.loop import Steps
from kdexp.training.prepare import prepare

MODES = {"fixed": (WEAK, PLAIN), "independent": (WEAK, WEAK2), "same": (WEAK, WEAK), "mixup": (MIXED, MIXED)}
CROPS = "dataset.crop_padding=1"
WHOLE = ("limit_batches=null", "epochs=3", "batch_size=16")


def asked(monkeypatch):
    """The images that go through teachers."""
    found, real = [], Teacher.ask
    monkeypatch.setattr(Teacher, "ask", lambda self, image: found.append(image) or real(self, image))
    return found


@pytest.mark.parametrize("mode", MODES)
def test_each_network_reads_the_view_that_its_mode_says(make_experiment, monkeypatch, mode):
    experiment = make_experiment(CROPS, f"views={mode}")
    (learner,), teacher = fresh(experiment, "distilled")
    split, student = experiment.data.student_train, []
    monkeypatch.setattr(learner, "forward", lambda image: student.append(image) or type(learner).forward(learner, image))
    teachers = asked(monkeypatch)
    steps = Steps(split, teacher, 1, 32, 0, None)
    images = steps.draw(0, steps.views([learner]))
    shown = list(split.batches_of(images, 32))
    learner.train()
    for batch in shown:
        outputs = steps.outputs(batch, [learner], steps.progress(0, 0))
        learner.step(*learner.reads(batch, outputs), steps.progress(0, 0))
    assert not learner.failure
    for batch, ours, theirs in zip(shown, student, teachers, strict=True):
        assert ours is batch.seen(MODES[mode][0]) and theirs is batch.seen(MODES[mode][1])
    assert all((ours is theirs) == (mode in ("same", "mixup")) for ours, theirs in zip(student, teachers, strict=True))


@pytest.mark.parametrize("method", ["kd", "function_matching"])
def test_equal_networks_agree_where_they_read_the_same_view(make_experiment, method):
    losses = {}
    for mode in MODES:
        words = (CROPS, f"distillation={method}", f"views={mode}", "student=mlp_wide", "distillation.alpha=0")
        experiment = make_experiment(*words)
        (learner,), teacher = fresh(experiment, "distilled")
        learner.model.load_state_dict(teacher.model.state_dict())
        batch, outputs = first_read(learner, teacher, experiment.data.student_train, 32)
        terms = learner.distiller.losses(batch, learner.forward(batch.image), outputs, None)
        losses[mode] = float(terms["kd"].detach())
    assert losses["same"] == pytest.approx(0, abs=1e-6) == losses["mixup"]
    assert losses["fixed"] > 1e-5 < losses["independent"]


@pytest.mark.slow
def test_a_fixed_teacher_takes_one_pass_and_says_so(make_experiment, monkeypatch):
    obtain(make_experiment(CROPS, *WHOLE), ["teacher"])
    found = asked(monkeypatch)
    experiment = make_experiment(CROPS, *WHOLE, "views=fixed")
    obtain(experiment)
    images = len(experiment.data.student_train)
    assert sum(map(len, found)) == images, "in three epochs"
    text = " ".join(said(experiment).split())
    assert f"computed once and cached for {images} images, since it reads images without augmentation (plain)" in text
    found.clear()
    mixing = make_experiment(CROPS, *WHOLE, "views=mixup")
    obtain(mixing)
    assert sum(map(len, found)) == 3 * images
    assert "runs on every batch, since mixed images never repeat" in " ".join(said(mixing).split())


def test_a_table_of_plain_images_answers_as_a_live_teacher(make_experiment):
    experiment = make_experiment(CROPS, "views=fixed")
    (learner,), live = fresh(experiment, "distilled")
    _, table = fresh(experiment, "distilled")
    split = experiment.data.student_train
    look_up(table, split)
    steps = Steps(split, table, 1, 32, 0, None)
    assert Steps(split, live, 1, 32, 0, None).views([learner]) == (PLAIN,)
    assert steps.views([learner]) == (), "no plain images are made for a table"
    images = split.epoch(0, 0, None, (PLAIN,))
    table.prepare_epoch(split, images)
    for batch in split.batches_of(images, 32):
        assert torch.equal(table(batch).logits, live(batch).logits)


@pytest.mark.slow
def test_each_view_has_outputs_of_its_own_in_the_session(make_experiment):
    session = Session()
    for seed, mode in enumerate(("fixed", "same", "fixed")):
        experiment = make_experiment(CROPS, *WHOLE, f"views={mode}", f"seed={seed}")
        experiment.session = session
        obtain(experiment)
    assert len(session.outputs._tables) == 2
    assert "cached by an earlier job" in " ".join(said(experiment).split())


@pytest.mark.slow
def test_learners_of_all_modes_trained_together_get_the_weights_they_get_alone(make_experiment):
    experiments = {mode: make_experiment(CROPS, f"views={mode}") for mode in MODES}
    split = experiments["same"].data.student_train

    def trained(*modes):
        entries = [experiments[mode].entry("distilled") for mode in modes]
        for mode, entry in zip(modes, entries, strict=True):
            entry.job = mode
        with RandomStream(1, torch.device("cpu")):
            network = build_network(experiments["same"].spec("teacher").model, experiments["same"].shape)
        learners, teacher = prepare(entries, network, experiments["same"].shape, experiments["same"].precision, split.labels)
        assert teacher.by_reading.keys() == {Reading(MODES[mode][1]) for mode in modes}
        quiet_training(learners, split, teacher, None, epochs=2, limit_batches=3)
        return [learner.state_dict() for learner in learners]

    together = trained(*MODES)
    for mode, ours in zip(MODES, together, strict=True):
        (alone,) = trained(mode)
        assert all(torch.equal(ours[name], value) for name, value in alone.items()), mode
    last = list(together[0])[-1]
    assert not any(torch.equal(together[0][last], other[last]) for other in together[1:])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fixed", "independent", "mixup"])
def test_an_interrupted_training_goes_on_bitwise(make_experiment, monkeypatch, mode):
    words = (CROPS, *WHOLE, f"views={mode}")
    whole = obtain(make_experiment(*words, "store=${output_dir}/whole"))[2].stored.tensors("last")
    obtain(make_experiment(*words), ["teacher", "baseline"])
    draw = Split.epoch

    def stops(self, seed, epoch, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        return draw(self, seed, epoch, *rest)

    monkeypatch.setattr(Split, "epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        obtain(make_experiment(*words))
    monkeypatch.setattr(Split, "epoch", draw)
    resumed = make_experiment(*words)
    ours = obtain(resumed)[2].stored.tensors("last")
    assert "distilled: resuming after epoch 2" in said(resumed)
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], whole[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["device", "ram"])
@pytest.mark.parametrize("mode", MODES)
def test_recorded_steps_read_the_same_views(make_experiment, monkeypatch, mode, memory):
    monkeypatch.setattr(graph, "record_graph", lambda work, generators: work)
    states = []
    for recording in (False, True):
        experiment = make_experiment(CROPS, f"views={mode}", "fast=true", f"memory={memory}")
        experiment.precision = dataclasses.replace(experiment.precision, graph=recording)
        learners, teacher = fresh(experiment, "distilled")
        look_up(teacher, experiment.data.student_train)
        quiet_training(learners, experiment.data.student_train, teacher, None, epochs=3, batch_size=16)
        assert not learners[0].failure and not learners[0].remark, learners[0].traceback
        states.append(learners[0].state_dict())
    plain, recorded = states
    for name, value in plain.items():  # a learning rate is rounded to fp32 in a recorded step
        torch.testing.assert_close(recorded[name], value, rtol=1e-4, atol=1e-5)
