"""Properties of every distillation method, found by glob."""

import copy
import shutil

import pytest
import torch
from each_method import METHODS, PAIR, TEACHING, by_kind, chosen
from loops import first_read

from kdexp.distillation.base import Progress
from kdexp.experiment.obtain import obtain
from kdexp.experiment.progress import ProgressSaver
from kdexp.training.prepare import prepare

START = Progress(epoch=0.0, epochs=1, step=0)
LEAST_FALL = {"vid": 0.005, "crd": 0.1}
"""The share by which a method's own term falls, if not a fifth: VID's is mostly the log of variances, which move as slowly as
the learning rate; CRD samples other images at every call, which can't be memorised."""


class Bench:
    """A baseline and a distilled learner of one method with their teacher, and one batch of digits."""

    def __init__(self, make_experiment, school, method, *overrides):
        self.experiment = make_experiment(*PAIR, *chosen(method), f"store={school}", *overrides)
        obtain(self.experiment, ["teacher"])
        self.entries = [self.experiment.entry(role) for role in ("baseline", "distilled")]
        network = self.experiment.teacher_network(self.entries)
        (self.baseline, self.learner), self.teacher = prepare(
            self.entries,
            network,
            self.experiment.shape,
            self.experiment.precision,
            self.experiment.data.student_train.labels,
        )
        self.read(32)

    def read(self, batch_size):
        split = self.experiment.data.student_train
        self.batch, self.outputs = first_read(self.learner, self.teacher, split, batch_size)

    def terms(self):
        student = self.learner.forward(self.batch.image)
        return self.learner.distiller.losses(self.batch, student, self.outputs, START)


@pytest.fixture(scope="session")
def school(tmp_path_factory):
    """A store that all benches share, so that each teacher is trained once."""
    return tmp_path_factory.mktemp("school")


@pytest.fixture(scope="session")
def without_distilled(tmp_path_factory):
    """Another one, for the teacher and the baseline alone."""
    return tmp_path_factory.mktemp("without_distilled")


@pytest.fixture
def bench(make_experiment, school, method):
    return Bench(make_experiment, school, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_trains_some_steps_and_reports(make_experiment, school, method):
    entries = obtain(make_experiment(*PAIR, *chosen(method), f"store={school}"))
    assert [entry.role for entry in entries] == ["teacher", "baseline", "distilled"][: 2 if method == "none" else 3]
    assert all(entry.stored and not entry.failure for entry in entries)


@pytest.mark.parametrize("method", TEACHING)
def test_terms_are_finite_scalars(bench):
    terms = bench.terms()
    assert terms
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("method", TEACHING)
def test_gradients_reach_student_and_auxiliary_modules_and_never_the_teacher(bench):
    sum(bench.terms().values()).backward()
    assert all(p.grad is None for p in bench.teacher.model.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in bench.learner.model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bench.learner.distiller.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING)
def test_the_methods_own_term_falls_on_a_memorised_batch(bench, method):
    name = list(bench.terms())[-1]
    bench.learner.train()
    history = []
    for _ in range(30):
        term = bench.terms()[name]
        history.append(float(term.detach()))
        bench.learner.descend({name: term})
    assert history[-1] < history[0] - LEAST_FALL.get(method, 0.2) * abs(history[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING)
def test_the_teacher_is_bitwise_unchanged_by_training(bench):
    before = copy.deepcopy(bench.teacher.model.state_dict())
    statistics = copy.deepcopy(bench.learner.model.stem[1].running_mean)
    for _ in range(3):
        bench.read(32)
        bench.learner.step(bench.batch, bench.outputs, START)
    assert not bench.learner.failure
    after = bench.teacher.model.state_dict()
    assert "stem.1.running_mean" in after
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(bench.learner.model.stem[1].running_mean, statistics)


@pytest.mark.parametrize("method", TEACHING)
def test_the_student_starts_from_the_baselines_weights(bench):
    ours, theirs = bench.learner.model.state_dict(), bench.baseline.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("method", TEACHING)
def test_a_partial_last_batch_works(bench):
    bench.read(3)
    assert all(torch.isfinite(term) for term in bench.terms().values())


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING)
def test_bf16_terms_are_fp32_and_near_the_exact_ones(make_experiment, school, method):
    exact = Bench(make_experiment, school, method).terms()
    rough = Bench(make_experiment, school, method, "precision=bf16").terms()
    assert all(term.dtype == torch.float32 for term in rough.values())
    for name, term in exact.items():
        assert float(term.detach()) == pytest.approx(float(rough[name].detach()), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_alpha_and_temperature_are_accepted(make_experiment, method):
    experiment = make_experiment(*chosen(method), "distillation.alpha=0.5", "distillation.temperature=3")
    assert experiment.entry(experiment.roles[-1]).method


def test_plain_training_ignores_knobs_of_distillation(make_experiment):
    plain, tuned = make_experiment("distillation=none"), make_experiment("distillation=none", "distillation.alpha=0.3")
    assert plain.spec("baseline").key == tuned.spec("baseline").key


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING)
def test_a_pair_without_maps_trains_or_is_refused_in_one_sentence(here, method):
    code, printed = here(*chosen(method), "epochs=1", "teacher_epochs=1", "limit_batches=2")
    if code:
        assert code == 2 and "1 problem in this command" in printed.err
        assert printed.err.count("\n  distillation: ") == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING)
def test_a_method_without_modules_has_no_loss_between_equal_networks(make_experiment, school, method):
    bench = Bench(make_experiment, school, method, "student=resnet14", "student.widths=[4,4,8,16]")
    if any(parameter.requires_grad for parameter in bench.learner.distiller.parameters()):
        return  # a module that was drawn at random stands between the two
    bench.learner.model.load_state_dict(bench.teacher.model.state_dict())
    bench.learner.eval()
    terms = {name: float(term.detach()) for name, term in bench.terms().items() if name != "ce"}
    assert terms and all(abs(term) < 1e-5 for term in terms.values()), terms


@pytest.mark.slow
@pytest.mark.parametrize("method", [*by_kind(), "feature_cosine beside"])
def test_an_interrupted_training_resumes_bitwise(make_experiment, without_distilled, tmp_path, monkeypatch, method):
    def experiment(store):
        return make_experiment(*PAIR, *chosen(method), f"store={tmp_path / store}")

    obtain(make_experiment(*PAIR, "distillation=none", f"store={without_distilled}"))
    for store in ("whole", "cut"):
        shutil.copytree(without_distilled, tmp_path / store)
    if method == "none":  # the baseline is what is cut off
        shutil.rmtree(tmp_path / "cut" / "learner"), shutil.rmtree(tmp_path / "whole" / "learner")
    whole, cut = obtain(experiment("whole"))[-1], experiment("cut")
    keep = ProgressSaver.keep

    def cut_off(self, learner):
        keep(self, learner)
        if learner.name == cut.roles[-1]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ProgressSaver, "keep", cut_off)
        obtain(cut)
    resumed = obtain(experiment("cut"))[-1]
    assert resumed.stored.result["continued_after"] == [1]
    ours, theirs = (entry.stored.tensors("last") for entry in (whole, resumed))
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole.stored.result["history"] == resumed.stored.result["history"]
