"""The train loop: equal to a plain loop, equal for learners trained together, and honest about failures."""

import pytest
import torch
import torch.nn.functional as F
from experiments import said
from loops import Operators, look_up, prepared, run

from kdexp.distillation.base import Progress
from kdexp.experiment.obtain import obtain
from kdexp.models.tutorial import LightNN
from kdexp.training.entry import Entry

WITH_DROPOUT = ("teacher=deepnn", "student=lightnn", "limit_batches=2")


def look_up_all(teacher, split):
    """Computes a teacher's outputs for all images, to be looked up from now on."""
    look_up(teacher, split)
    teacher.prepare_all(split)


def plain_losses(split, teacher, steps, *, seed, alpha, temperature):
    """The tutorial's loop in plain PyTorch: NCHW, torch's own Adam, with a live teacher; returns the losses."""
    torch.manual_seed(seed)
    student = LightNN(num_classes=10, in_channels=1, image_size=8, dropout=0.1)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()
    losses, epoch = [], 0
    while len(losses) < steps:
        for batch in split.batches(32, seed=seed, epoch=epoch):
            image = batch.image.contiguous()
            optimizer.zero_grad()
            logits = student(image)
            with torch.no_grad():
                targets = F.softmax(teacher(image) / temperature, dim=1)
            soft = F.log_softmax(logits / temperature, dim=1)
            kd = torch.sum(targets * (targets.log() - soft)) / len(image) * temperature**2
            loss = alpha * F.cross_entropy(logits, batch.label) + (1 - alpha) * kd
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        epoch += 1
    return losses[:steps]


@pytest.mark.slow
def test_the_first_twenty_steps_equal_a_plain_loop(make_experiment):
    experiment = make_experiment(*WITH_DROPOUT, "seed=42", "distillation.alpha=0.25", "distillation.temperature=3")
    (learner,), teacher = prepared(experiment, "distilled")
    split = experiment.data.student_train
    plain = plain_losses(split, teacher.model, 20, seed=42, alpha=0.25, temperature=3.0)
    look_up_all(teacher, split)
    ours, learner_steps = [], split.steps(32)
    learner.train()
    for epoch in range(7):
        for step, batch in enumerate(split.batches(32, seed=42, epoch=epoch)):
            learner.step(batch, teacher(batch), Progress(epoch, 7, epoch * learner_steps + step))
        ours += [float(row[:-1].sum()) for row in learner.log.trace]
        learner.log.trace = []
    torch.testing.assert_close(torch.tensor(ours[:20]), torch.tensor(plain), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "hint", "cosine", "mse_logits"])
def test_learners_trained_together_equal_learners_trained_alone_bitwise(make_experiment, method):
    # The roles of the tutorial's nets are swapped for a small teacher, so that every method fits and the test is short.
    nets = ("teacher=lightnn", "student=lightnn", f"distillation={method}")
    company = make_experiment(*nets)
    (baseline, distilled), teacher = prepared(company, "baseline", "distilled")
    run(company, [baseline, distilled], teacher)
    for role, together in (("baseline", baseline), ("distilled", distilled)):
        lone_experiment = make_experiment(*nets)
        (alone,), its_teacher = prepared(lone_experiment, role)
        run(lone_experiment, [alone], its_teacher)
        for name, value in together.state_dict().items():
            assert torch.equal(value, alone.state_dict()[name]), (role, name)
        assert together.history == alone.history


def test_dropout_is_at_work_in_that_comparison(make_experiment):
    experiment = make_experiment("teacher=lightnn", "student=lightnn")
    (learner,), _ = prepared(experiment, "baseline")
    image = next(experiment.data.student_train.batches(32, seed=0, epoch=0)).image
    learner.train()
    with learner.stream:
        assert not torch.equal(learner.forward(image).logits, learner.forward(image).logits)


@pytest.mark.slow
def test_training_leaves_the_callers_random_stream_alone(make_experiment):
    experiment = make_experiment("teacher=lightnn", "student=lightnn")
    before = torch.get_rng_state()
    obtain(experiment)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_fails_its_learner_alone(make_experiment):
    experiment = make_experiment()
    (baseline, distilled), teacher = prepared(experiment, "baseline", "distilled")
    real = distilled.distiller.losses

    def spoilt(batch, student, said, progress):
        terms = real(batch, student, said, progress)
        return terms | {"kd": terms["kd"] * (float("nan") if progress.step == 4 else 1.0)}

    distilled.distiller.losses = spoilt
    run(experiment, [baseline, distilled], teacher, epochs=3)
    assert distilled.failure == "kd loss became nan in epoch 2, step 2"
    assert (len(distilled.history), len(baseline.history), baseline.failure) == (2, 3, "")


def test_a_diverging_run_is_a_failed_row_and_nothing_is_stored(make_experiment):
    experiment = make_experiment("optimizer=sgd", "optimizer.lr=1e30", "optimizer@teacher_optimizer=adam", "epochs=3")
    teacher, baseline, distilled = obtain(experiment)
    assert teacher.stored and not baseline.stored and not distilled.stored
    assert "loss became" in baseline.failure and "epoch" in baseline.failure


def test_a_failed_teacher_stops_the_run(make_experiment):
    entries = obtain(make_experiment("optimizer=sgd", "teacher_optimizer.lr=1e30", "teacher_epochs=3"))
    assert [(entry.role, bool(entry.failure)) for entry in entries] == [("teacher", True)]


@pytest.mark.slow
def test_the_best_epoch_is_chosen_on_validation_data(make_experiment):
    entry: Entry = obtain(make_experiment("epochs=5", "limit_batches=null"))[1]
    accuracies = [row["validation_accuracy"] for row in entry.stored.result["history"]]
    assert accuracies[entry.stored.result["best_epoch"] - 1] == max(accuracies)
    assert accuracies.index(max(accuracies)) == entry.stored.result["best_epoch"] - 1


def test_without_validation_data_there_is_no_best_epoch(make_experiment):
    entry = obtain(make_experiment("dataset.val_fraction=0"))[1]
    assert entry.stored.result["best_epoch"] is None
    assert set(entry.stored.result["test"]) == {"last"}


def test_the_teachers_accuracy_is_reported_first_with_a_warning_near_chance(make_experiment):
    experiment = make_experiment("teacher_epochs=1", "limit_batches=1", "teacher_optimizer.lr=1e-6")
    obtain(experiment)
    text = said(experiment)
    assert text.index("teacher mlp_wide:") < text.index("training baseline and distilled")
    assert "near chance" in text


WAITS_FOR_THE_DEVICE = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.unique2"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "hint", "cosine", "mse_logits"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_step_never_waits_for_the_device(make_experiment, method, optimizer):
    # fast: torch's plain optimizers on a CPU keep their step counter where a kernel would, and read it.
    experiment = make_experiment(f"distillation={method}", f"optimizer={optimizer}", "optimizer.clip_norm=1", "fast=true")
    (learner,), teacher = prepared(experiment, "distilled")
    split = experiment.data.student_train
    look_up_all(teacher, split)
    batch = next(split.batches(32, seed=0, epoch=0))
    learner.train()
    with Operators() as seen:
        learner.step(batch, teacher(batch), Progress(0.5, 1, 0))
        learner.close_epoch(experiment.data.validation)
    assert "aten.addmm" in seen.names and not WAITS_FOR_THE_DEVICE & set(seen.names)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_epoch_on_a_gpu_waits_for_the_device_once(make_experiment):
    experiment = make_experiment("device=cuda", "precision=fp32", "fast=false", "graph=false")
    learners, teacher = prepared(experiment, "baseline", "distilled")
    look_up_all(teacher, experiment.data.student_train)
    batches = list(experiment.data.student_train.batches(32, seed=0, epoch=0))
    learners[0].train(), learners[1].train()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(batches):
            for learner in learners:
                learner.step(batch, teacher(batch), Progress(0.0, 1, step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
