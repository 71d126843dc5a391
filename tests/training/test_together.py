"""Several batches of images in one step: in one pass, or in passes of their own; and notes beside the loss terms."""

import pytest
import torch
from loops import prepared

from kdexp.distillation.base import Distiller

BATCHES = [5, 3, 4]


@pytest.fixture
def learner(make_experiment):
    (found,), _ = prepared(make_experiment("student=resnet8", "student.widths=[4,4,6,8]"), "baseline")
    found.train()
    return found


@pytest.fixture
def images(learner):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 1, 8, 8, generator=generator) for size in BATCHES]


def statistics(learner):
    return {name: value.clone() for name, value in learner.model.named_buffers() if "running" in name}


def test_one_pass_is_that_of_all_images(learner, images):
    found = learner.forward_all(images, joint=True)
    whole = learner.model(torch.cat(images))
    assert torch.equal(torch.cat([outputs.logits for outputs in found]), whole)
    assert [len(outputs.logits) for outputs in found] == BATCHES
    assert torch.equal(learner._logits, found[0].logits)


def test_in_passes_of_their_own_the_first_alone_changes_running_statistics(learner, images):
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    found = learner.forward_all(images, joint=False)
    after = statistics(learner)
    learner.model.load_state_dict(before)
    alone = []
    for batch in images:
        alone.append(learner.model(batch))
        if len(alone) == 1:
            assert all(torch.equal(value, after[name]) for name, value in statistics(learner).items())
    assert all(torch.equal(ours.logits, theirs) for ours, theirs in zip(found, alone, strict=True))
    assert torch.equal(learner._logits, found[0].logits)


class Noting(Distiller):
    """Notes the share of images of class 0, and reads a scheduled number."""

    uses_teacher = False

    def scheduled(self, progress):
        return {"ramp": progress.step / 10}

    def update(self, learner, batch, teacher, progress):
        learner.note(zeros=(batch.label == 0).float().mean(), ramp=self.now["ramp"])
        return super().update(learner, batch, teacher, progress)


def test_notes_are_in_the_history_and_not_in_the_loss(make_experiment):
    from loops import quiet_training

    experiment = make_experiment("limit_batches=null")
    (learner,), _ = prepared(experiment, "baseline")
    learner.distiller = Noting(temperature=1, alpha=None, ce_weight=1.0, kd_weight=None)
    split = experiment.data.student_train
    quiet_training([learner], split, None, experiment.data.validation, epochs=1, batch_size=len(split))
    (row,) = learner.history
    assert row["loss"] == row["ce"]
    assert row["zeros"] == pytest.approx(float((split.labels == 0).float().mean()))
    assert row["ramp"] == 0


def test_interleaved_passes_learn_their_running_statistics_from_images_of_all_batches(learner):
    images = [torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(number)) for number in range(2)]
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    found = learner.forward_all(images, joint=False, interleaved=True)
    after = statistics(learner)
    learner.model.load_state_dict(before)
    first, second = (learner.model(torch.cat([a[:2], b[2:]])) for a, b in (images, reversed(images)))
    learner.model.load_state_dict(before)
    learner.model(torch.cat([images[0][:2], images[1][2:]]))
    assert all(torch.equal(value, after[name]) for name, value in statistics(learner).items())
    assert torch.equal(found[0].logits, torch.cat([first[:2], second[2:]]))
    assert torch.equal(found[1].logits, torch.cat([second[:2], first[2:]]))
    assert torch.equal(learner._logits, found[0].logits)


def test_passes_aside_change_neither_running_statistics_nor_what_is_measured(learner, images):
    learner.forward(images[0])
    before, measured = statistics(learner), learner._logits
    aside = learner.forward_aside(images[1]).logits
    assert all(torch.equal(value, before[name]) for name, value in statistics(learner).items())
    assert learner._logits is measured
    assert torch.equal(aside, learner.forward(images[1]).logits)
