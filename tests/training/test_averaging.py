"""The moving average of a student's weights: its formula, what is evaluated and stored, and a training that ignores it."""

from copy import deepcopy

import pytest
import torch
from each_method import PAIR
from experiments import COMPOSER, compose_command
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import prepared, run
from safetensors.torch import load_file, save_file
from torch import nn

from kdexp.configuration.nodes import build
from kdexp.deployment.rebuild import deployed_network
from kdexp.distillation.none import NoDistillation
from kdexp.experiment.obtain import obtain
from kdexp.report.averaged import averaged_words
from kdexp.report.facts import measure
from kdexp.report.remarks import remarks
from kdexp.sweep.axes import axis_values
from kdexp.training.averaging import ExponentialAveraging, MovingAverage
from kdexp.validation.validator import validate

EMA = ("averaging=ema", "averaging.decay=0.75")


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.999), st.booleans(), st.integers(1, 30))
def test_the_average_is_the_recursion_by_hand(decay, warm_up, steps):
    net = network()
    average = MovingAverage(net, decay, warm_up=warm_up)
    expected = net[0].weight.detach().clone()
    for t in range(steps):
        with torch.no_grad():
            net[0].weight += 1
        d = min(decay, (1 + t) / (10 + t)) if warm_up else decay
        expected = d * expected + (1 - d) * net[0].weight.detach()
        average.update()
    torch.testing.assert_close(average.network[0].weight, expected, rtol=1e-5, atol=1e-5)  # d is an fp32 number


def test_without_decay_it_is_the_network_and_buffers_and_frozen_parameters_always_are():
    net = network()
    net[2].requires_grad_(False)
    exact, slow = (MovingAverage(net, decay, warm_up=False) for decay in (0.0, 0.5))
    before = deepcopy(net)
    for _ in range(3):
        net(torch.randn(4, 2, dtype=torch.float64))
        with torch.no_grad():
            net[0].weight.normal_()
        net[1].running_mean = net[1].running_mean + 0  # replaced, as some networks do
        for average in (exact, slow):
            average.update()
    state = net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in exact.network.state_dict().items())
    differing = {name for name, value in slow.network.state_dict().items() if not torch.equal(value, state[name])}
    assert differing == {"0.weight"} and int(slow.steps) == 3
    assert not torch.equal(net[1].running_mean, before[1].running_mean)
    assert not any(parameter.requires_grad for parameter in slow.parameters())


@pytest.fixture
def pair(make_experiment):
    """Learners of two epochs with and without an average."""

    def make(*more):
        found = []
        for words in (EMA, ()):
            experiment = make_experiment(*PAIR, "distillation=none", *words, *more)
            (learner,), _ = prepared(experiment, "baseline")
            run(experiment, [learner], None)
            found.append(learner)
        return found

    return make


def test_training_does_not_notice_it_and_the_average_is_what_is_evaluated(pair):
    averaged, plain = pair()
    ours, theirs = averaged.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["loss"] for row in averaged.history] == [row["loss"] for row in plain.history]
    stored = averaged.state_dict()
    assert averaged.evaluated is averaged.average.network and plain.evaluated is plain.model
    assert stored.keys() == plain.state_dict().keys()
    assert not torch.equal(stored["model.stem.0.weight"], ours["stem.0.weight"])
    assert torch.equal(stored["model.stem.1.running_mean"], ours["stem.1.running_mean"])
    assert int(averaged.average.steps) == 6
    assert averaged.best_weights.keys() == stored.keys()


def test_asking_the_average_uses_the_statistics_of_the_batch_and_changes_nothing(pair):
    averaged, _ = pair()
    averaged.train()
    image = torch.rand(5, 1, 8, 8)
    copy = deepcopy(averaged.average.network).train()
    before = {name: value.clone() for name, value in averaged.average.network.named_buffers() if "running" in name}
    logits = averaged.ask_average(image)
    after = dict(averaged.average.network.named_buffers())
    assert torch.equal(logits, copy(image)) and not logits.requires_grad
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(logits, copy.eval()(image))


def test_a_resumed_training_ends_with_the_same_average_bitwise(make_experiment):
    experiment = make_experiment(*PAIR, *EMA, "distillation=none")
    whole, killed, resumed = (prepared(experiment, "baseline")[0][0] for _ in range(3))
    run(experiment, [whole], None)
    run(experiment, [killed], None, epochs=1)
    resumed.resume(deepcopy(killed.progress()))
    run(experiment, [resumed], None)
    assert len(whole.history) == 2 and whole.history == resumed.history
    for ours, theirs in ((whole.state_dict(), resumed.state_dict()), (whole.model.state_dict(), resumed.model.state_dict())):
        assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert int(whole.average.steps) == int(resumed.average.steps) == 6


def test_learners_with_and_without_it_train_together_as_alone(make_experiment):
    experiment = make_experiment(*PAIR, *EMA)
    together, teacher = prepared(experiment, "baseline", "distilled")
    together[0].average = None
    run(experiment, together, teacher)
    (alone,), teacher = prepared(experiment, "distilled")
    run(experiment, [alone], teacher)
    theirs = alone.state_dict()
    assert alone.history == together[1].history
    assert all(torch.equal(value, theirs[name]) for name, value in together[1].state_dict().items())


def test_only_students_have_it_in_their_key_and_only_if_it_is_chosen(make_experiment):
    averaged, plain, zero = make_experiment(*EMA), make_experiment(), make_experiment("averaging=ema", "averaging.decay=0")
    assert averaged.spec("teacher").key == plain.spec("teacher").key
    assert "averaging" not in plain.spec("baseline").identity()
    for role in ("baseline", "distilled"):
        identity = averaged.spec(role).identity()
        assert identity["averaging"]["decay"] == 0.75 and "kdexp.training.averaging" in identity["sources"]
        assert len({made.spec(role).key for made in (averaged, plain, zero)}) == 3


@pytest.mark.slow
def test_a_run_stores_the_average_and_tests_exports_and_diagnoses_it(make_experiment, tmp_path):
    experiment = make_experiment(*PAIR, *EMA, "diagnosis=always")
    entries = obtain(experiment)
    facts = measure(entries, experiment)
    for entry in entries[1:]:
        stored, test = entry.stored, experiment.data.test
        net = deployed_network(stored).eval()
        with torch.no_grad():
            logits = torch.cat([net(image) for image in test.in_order(500)])
        torch.testing.assert_close(stored.tensors("logits")["last"], logits)
        state = torch.load(stored.path / "training.pt", weights_only=True)
        weights = stored.tensors("last")
        assert {f"model.{name}" for name in state["trained_weights"]} == weights.keys()
        assert not torch.equal(state["trained_weights"]["classifier.weight"], weights["model.classifier.weight"])
        assert stored.result["training_only_parameters"] == 0
    assert 0 <= facts.distilled_train <= 1 and facts.gradients_before["kd"] != facts.gradients_after["kd"]
    assert sum(line == averaged_words(0.75) for line in remarks(entries, experiment)) == 1
    save_file(load_file(stored.path / "last.safetensors"), tmp_path / "start.safetensors")
    again = make_experiment(*PAIR, f"student.checkpoint={tmp_path}/start.safetensors")
    assert again.entry("baseline").checkpoint and not validate(again.config)


def test_the_classifier_of_a_frozen_student_is_averaged_alone():
    net = network()
    net[:2].requires_grad_(False).eval()
    average = MovingAverage(net, 0.9, warm_up=False)
    average.network.train()
    average.follow_modes()
    assert [module.training for module in average.network] == [False, False, True]


class Asking(NoDistillation):
    """Learns from the average of its weights."""

    needs_average = True


@pytest.mark.parametrize(
    ("words", "name", "sentence"),
    [
        (["distillation._target_=test_averaging.Asking"], "distillation", "add averaging=ema"),
        (
            ["averaging=ema", "distillation=simkd", *PAIR],
            "averaging",
            "=ema: simkd deploys more than the student's own network",
        ),
        (["averaging=ema", "averaging.decay=1"], "averaging.decay", "=1: must be at least 0 and below 1"),
        (["averaging._target_=kdexp.training.optimization.Constant"], "averaging._target_", "must be a class derived from"),
    ],
)
def test_refused(words, name, sentence, monkeypatch):
    monkeypatch.syspath_prepend("tests/training")
    (problem,) = validate(compose_command(words))
    assert problem.name == name and sentence in problem.sentence


def test_a_method_that_needs_an_average_is_accepted_with_one(monkeypatch):
    monkeypatch.syspath_prepend("tests/training")
    assert validate(compose_command(["averaging=ema", "distillation._target_=test_averaging.Asking"])) == []


def test_the_shipped_option_is_one():
    made = build(compose_command(["averaging=ema"]).averaging)
    assert isinstance(made, ExponentialAveraging) and made.describe() == "EMA, decay 0.999"
    assert build(compose_command([]).averaging).of(network()) is None


def test_a_sweep_over_it_has_a_column_for_students_alone():
    config = COMPOSER.compose(["averaging=ema"])
    ours, theirs = (axis_values(config, role) for role in ("baseline", "teacher"))
    assert ours["averaging"] == "ema" and ours["averaging.decay"] == 0.999
    assert not any(key.startswith("averaging") for key in theirs)
