"""The diagnosis of a distilled student that is no better: facts against values computed by hand, findings by cause."""

import hashlib
import json
import math
from dataclasses import fields, replace

import pytest
import torch
from diagnosed import HEALTHY
from each_method import PAIR, TEACHING
from experiments import said
from hypothesis import given, settings
from hypothesis import strategies as st

from kdexp.commands.run import report
from kdexp.deployment.rebuild import stored_network
from kdexp.distillation.base import Progress
from kdexp.experiment.obtain import obtain
from kdexp.report import diagnosis
from kdexp.report.diagnosis import HEADING, block
from kdexp.report.facts import Facts, entropy, gradient_norms, late_progress, measure, softening_temperature
from kdexp.report.findings import balancing, findings
from kdexp.tasks.classification import chance_of_split, correct, only_one_right
from kdexp.training.prepare import prepare

few = settings(max_examples=25, deadline=None)
counts = st.integers(0, 60)


def by_hand(ones, others):
    tosses = ones + others
    return sum(math.comb(tosses, k) for k in range(tosses + 1) if abs(2 * k - tosses) >= abs(ones - others)) / 2**tosses


@pytest.mark.parametrize(("ones", "others", "chance"), [(0, 0, 1), (3, 3, 1), (0, 5, 2 / 32), (1, 4, 12 / 32), (1, 0, 1)])
def test_p_values_computed_by_hand(ones, others, chance):
    assert chance_of_split(ones, others) == pytest.approx(chance)


@few
@given(counts, counts)
def test_the_p_value_is_the_exact_binomial_one(ones, others):
    assert chance_of_split(ones, others) == pytest.approx(by_hand(ones, others))
    assert chance_of_split(ones, others) == chance_of_split(others, ones)
    assert chance_of_split(ones + others, 0) <= chance_of_split(ones, others) <= 1


def test_the_p_value_for_many_images_neither_overflows_nor_is_slow():
    assert chance_of_split(5000, 5000) == 1
    assert chance_of_split(4900, 5100) == pytest.approx(0.0466, abs=0.001)
    assert chance_of_split(0, 10_000) == 0


def test_images_that_only_one_student_classifies_correctly_are_counted():
    ours, theirs = torch.eye(3)[[0, 0, 1, 2, 0]], torch.eye(3)[[0, 1, 2, 0, 0]]
    assert only_one_right(ours, theirs, torch.tensor([0, 0, 1, 0, 2])) == (2, 1)


@few
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 6))
def test_the_counts_explain_the_difference(seed, rows, classes):
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = torch.randn(2, rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    gained, lost = only_one_right(ours, theirs, labels)
    assert gained - lost == int(correct(ours, labels) - correct(theirs, labels))
    assert gained + lost <= rows


def test_entropies_computed_by_hand():
    assert entropy(torch.zeros(2, 10), 3.0) == pytest.approx(math.log(10))
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert entropy(logits, 1.0) == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    odds = math.sqrt(3) / (1 + math.sqrt(3))
    assert entropy(logits, 2.0) == pytest.approx(-(odds * math.log(odds) + (1 - odds) * math.log(1 - odds)))
    assert entropy(torch.tensor([[1000.0, 0.0, 0.0]]), 1.0) == 0


@few
@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.sampled_from([0.5, 5.0, 50.0]))
def test_the_softening_temperature_gives_that_entropy(seed, share, scale):
    logits = scale * torch.randn(20, 7, generator=torch.Generator().manual_seed(seed))
    temperature = softening_temperature(logits, share)
    assert entropy(logits, temperature) == pytest.approx(share * math.log(7), rel=1e-3)
    assert entropy(logits, temperature / 2) < share * math.log(7) < entropy(logits, 2 * temperature)


@pytest.mark.parametrize(
    ("losses", "share"),
    [([5.0], None), ([4.0, 2.0, 1.0], 1 / 3), ([2.0, 3.0], 0), ([3.0, 1.0, 2.0], 0), ([21.0 - i for i in range(21)], 0.1)],
)
def test_late_progress_is_the_share_of_the_last_tenth(losses, share):
    assert late_progress(losses) == (None if share is None else pytest.approx(share))


def test_gradients_of_a_linear_student_in_closed_form(make_experiment):
    experiment = make_experiment("student.hidden=[]", "distillation.temperature=3", "distillation.alpha=0.3")
    obtain(experiment, ["teacher"])
    entry = experiment.entry("distilled")
    (learner,), teacher = prepare(
        [entry], experiment.teacher_network([entry]), experiment.shape, experiment.precision, experiment.split_of(entry).labels
    )
    (batch,) = experiment.data.student_train.batches(32, seed=0, epoch=0, limit=1)
    found = gradient_norms(learner, [(batch, teacher(batch))], Progress(0.0, 1, 0))
    logits, inputs = learner.forward(batch.image).logits.detach(), batch.image.flatten(1)
    with_bias = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    by_ce = (logits.softmax(1) - torch.eye(10)[batch.label]).T @ with_bias / 32
    by_kd = 3 * ((logits / 3).softmax(1) - (teacher(batch).logits / 3).softmax(1)).T @ with_bias / 32
    assert found == {
        "ce": pytest.approx(float(0.3 * by_ce.norm()), rel=1e-4),
        "kd": pytest.approx(float(0.7 * by_kd.norm()), rel=1e-4),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that tests share, so that each teacher and each baseline is trained once."""
    return tmp_path_factory.mktemp("school")


@pytest.fixture
def facts_of(make_experiment, store):
    """Runs a command and measures it."""

    def run(*overrides):
        experiment = make_experiment(f"store={store}", *overrides)
        entries = obtain(experiment)
        return measure(entries, experiment), experiment

    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", TEACHING)
def test_every_method_can_be_measured(facts_of, method):
    facts, _ = facts_of(*PAIR, f"distillation={method}", "dataset.val_fraction=0")
    told = {**facts.gradients_before, **facts.gradients_after}
    apart = method == "feature_pretraining"  # its terms are never in one step, and so not compared
    assert bool(told) != apart and all(math.isfinite(norm) and norm > 0 for norm in told.values())
    assert all(0 <= getattr(facts, f.name) <= 1 for f in fields(Facts) if f.name.endswith(("_test", "_train", "confidence")))
    assert facts.train_images == 96 and (facts.temperature is None) == ("kd" not in told)


@pytest.mark.slow
def test_the_facts_are_those_of_the_networks(facts_of):
    facts, experiment = facts_of("limit_batches=null", "dataset.student_fraction=0.3", "epochs=30", "teacher_epochs=10")
    found = {role: experiment.store.find(experiment.spec(role).key) for role in experiment.roles}
    assert facts.train_images == len(experiment.data.student_train)
    assert facts.difference == pytest.approx(100 * (facts.distilled_test - facts.baseline_test))
    assert facts.gained - facts.lost == round(797 * facts.difference / 100)
    assert facts.teacher_test == found["teacher"].result["test"]["last"]["top1"]
    split = experiment.data.student_train
    images = torch.cat(list(split.in_order(500)))
    logits = {role: stored_network(stored)(images).detach() for role, stored in found.items()}
    for role, answers in logits.items():
        assert getattr(facts, f"{role}_train") == pytest.approx(float(correct(answers, split.labels)) / len(split))
    assert facts.confidence == pytest.approx(float(logits["teacher"].softmax(1).max(1).values.mean()), rel=1e-5)
    assert facts.entropy == pytest.approx(entropy(logits["teacher"], 4.0), rel=1e-5)
    assert facts.entropy_share == pytest.approx(facts.entropy / math.log(10))


@pytest.mark.slow
def test_measuring_changes_nothing(make_experiment):
    nets = [word for role in ("teacher", "student") for word in (f"{role}._target_=own_networks.DropNet", f"~{role}.hidden")]
    experiment = make_experiment("distillation=hint", "dataset.crop_padding=1", *nets)
    entries = obtain(experiment)

    def state():
        files = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in experiment.store.root.rglob("*") if p.is_file()}
        return files, torch.get_rng_state().tolist(), torch.is_grad_enabled()

    before = state()
    assert measure(entries, experiment) == measure(entries, experiment)
    assert state() == before


@pytest.mark.slow
def test_stored_learners_and_teachers_from_checkpoints_can_be_measured(facts_of, tmp_path):
    facts, experiment = facts_of()
    assert facts_of()[0] == facts
    weights = experiment.teacher_network([experiment.entry("distilled")]).state_dict()
    torch.save(weights, tmp_path / "teacher.pt")
    foreign, experiment = facts_of(f"teacher.checkpoint={tmp_path}/teacher.pt", "precision=bf16")
    assert foreign.teacher_train == pytest.approx(facts.teacher_train, abs=0.02)
    assert "mean" in str(findings(replace(foreign, teacher_test=0.5, baseline_test=0.9, teacher_reordered=""), experiment))


CASES = {
    "noise": (
        {"chance": 0.06},
        {"chance": 0.04},
        "Not significant: it wins 10 test images, the baseline 34 (p = 0.06)",
        "-m seed=0,1,2,3,4",
    ),
    "no parting": ({"chance": 1.0, "gained": 0, "lost": 0}, {}, "the same test images", "-m seed=0,1,2,3,4"),
    "as many": ({"chance": 1.0, "gained": 6, "lost": 6}, {}, "Not significant: each wins 6 test images (p = 1.00)", "-m seed="),
    "mute": ({"gradients_before": {"ce": 0.1}}, {"gradients_before": {}}, "terms have weight", "distillation=hint"),
    "weak": (
        {"teacher_test": 0.925, "teacher_train": 0.98},
        {"teacher_test": 0.93, "teacher_train": 0.98},
        "The teacher is hardly better than the baseline: 92.50 % to 92.00 %",
        "teacher_epochs=8, or another",
    ),
    "weaker": ({"teacher_test": 0.9, "teacher_train": 0.98}, {}, "no better than the baseline: 90.00 %", "teacher_epochs=8"),
    "weak but fitted": ({"teacher_test": 0.925}, {"teacher_test": 0.93}, "fits the training images", "a larger teacher"),
    "weak since it diverged": (
        {"teacher_test": 0.1, "teacher_diverged": True},
        {"teacher_diverged": True},
        "no better than the baseline: 10.00 % to 92.00 %; its training diverged",
        "teacher_optimizer.lr=0.0001",
    ),
    "reordered": (
        {"teacher_test": 0.02, "teacher_reordered": "with its classes renamed 97.00 %"},
        {},
        "classes in another order: 2.00 %, with its classes renamed 97.00 %",
        "named so that they sort as in its checkpoint",
    ),
    "diverged": (
        {"objective_after": 3e9, "distilled_train": 0.1},
        {"objective_after": 2.8},
        "The student diverged: its loss rose from 2.4 to 3e+09",
        "optimizer.lr=0.0001",
    ),
    "not a number": ({"objective_after": math.nan}, {}, "The student diverged: its loss rose from 2.4 to nan", "optimizer.lr="),
    "no headroom": (
        {"baseline_test": 1.0, "teacher_test": 1.0, "chance": 1.0},
        {"baseline_test": 1.0, "teacher_test": 1.0},
        "The baseline is already at 100.00 %: nothing left to gain",
        "harder data",
    ),
    "hardly any headroom": ({"baseline_test": 0.9938, "chance": 0.4}, {"baseline_test": 0.9938}, "already at 99.38 %", ""),
    "learning": (
        {"distilled_train": 0.85, "late_progress": 0.02},
        {"distilled_train": 0.985, "late_progress": 0.02},
        "The student underfits (85.0 % on training images; baseline 99.0 %, teacher 100.0 %); its loss still falls",
        "epochs=20 teacher_epochs=2, or optimizer.lr=0.003",
    ),
    "after one epoch": ({"distilled_train": 0.9, "late_progress": None}, {}, "after a single epoch", "epochs=8"),
    "as poor as its teacher": ({}, {"distilled_train": 0.85, "teacher_train": 0.84}, "underfits", ""),
    "both poor": ({"distilled_train": 0.9, "baseline_train": 0.9}, {}, "underfits (90.0 %", "larger"),
    "learned nothing": (
        {"distilled_train": 0.11},
        {},
        "no more than the largest class (11.0 %; chance 10.0 %)",
        "optimizer.lr=0.0001",
    ),
    "small": ({"distilled_train": 0.85}, {}, "its loss is flat, and the teacher has 9.5 times", "a larger student"),
    "faint": (
        {"gradients_before": {"ce": 0.1, "kd": 0.004}},
        {"gradients_before": {"ce": 0.1, "kd": 0.006}},
        "CE outweighs 'kd' 25:1 at the start",
        "distillation.alpha=0",
    ),
    "sharp": ({"entropy_share": 0.04}, {"entropy_share": 0.06}, "as hard as labels", "distillation.temperature=6"),
    "never soft": ({"entropy_share": 0.0, "softer_temperature": 1e6}, {}, "as hard as labels", "another teacher"),
    "flat is fine": ({}, {"entropy_share": 0.9999}, "as hard as labels", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_each_finding_has_its_cause(make_experiment, case):
    present, absent, fact, advice = CASES[case]
    experiment = make_experiment()
    if present:
        finding = findings(replace(HEALTHY, **present), experiment)[0]
        assert fact in finding.fact and advice in finding.advice
    if absent:
        (only,) = findings(replace(HEALTHY, **absent), experiment)
        assert only.fact.startswith("No cause was found")


def test_a_dominating_term_is_distinguished_from_a_slow_student(make_experiment):
    experiment = make_experiment("distillation=hint", "distillation.weight=600")
    drowned = replace(HEALTHY, distilled_train=0.1, gradients_before={"ce": 0.1, "hint": 20.0})
    (finding,) = findings(drowned, experiment)
    assert "'hint' outweighs CE 200:1" in finding.fact and finding.advice == "distillation.weight=3"
    (slow,) = findings(replace(drowned, gradients_before={"ce": 0.1, "hint": 4.0}), experiment)
    assert "loss is flat" in slow.fact


def test_softer_targets_are_not_the_only_advice_while_the_student_still_learns(make_experiment):
    unfit = replace(HEALTHY, distilled_train=0.8, late_progress=0.1, entropy_share=0.0)
    patience, softness = findings(unfit, make_experiment())
    assert patience.advice.startswith("epochs=20")
    assert softness.advice == "distillation.temperature=6, together with the advice above"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["distillation.alpha=0.999"], "kd"),
        (["distillation.alpha=null", "distillation.ce_weight=2", "distillation.kd_weight=1e-4"], "kd"),
        (["distillation=hint", "distillation.weight=0.003"], "hint"),
        (["distillation=mse_logits", "distillation.weight=0.0001", "distillation.ce_weight=1"], "mse_logits"),
    ],
)
def test_the_advised_weight_balances_the_gradients(facts_of, overrides, name):
    faint, experiment = facts_of(*overrides)
    before = faint.gradients_before
    advice = balancing(name, before[name] / before["ce"], experiment)
    if "alpha=null" in " ".join(overrides):
        assert advice.startswith("distillation.kd_weight=")
    after = facts_of(*overrides, advice)[0].gradients_before
    assert after[name] == pytest.approx(after["ce"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        (["distillation.temperature=0.05", "epochs=40"], "At T=0.05 the soft targets are as hard as labels"),
        (["distillation.alpha=0.999", "epochs=40"], "CE outweighs 'kd'"),
        (["distillation.alpha=1"], "The teacher's terms have no weight"),
        (["teacher_epochs=1", "epochs=60"], "The teacher is no better than the baseline"),
        (["epochs=5", "dataset.student_fraction=0.5"], "its loss still falls"),
        (["student.hidden=[2]", "epochs=20"], "The student underfits"),
        (["optimizer=sgd", "distillation=hint", "distillation.weight=1000", "optimizer.lr=0.01"], "'hint' outweighs CE"),
    ],
)
def test_a_constructed_failure_is_recognised(facts_of, overrides, fact):
    common = ("limit_batches=null", "epochs=20", "teacher_epochs=20")
    facts, experiment = facts_of(*common, *overrides)
    assert any(fact in finding.fact for finding in findings(facts, experiment)), facts


@pytest.mark.slow
def test_uniform_soft_targets_are_no_finding(facts_of):
    facts, experiment = facts_of("distillation.temperature=1000", "limit_batches=null", "epochs=60", "teacher_epochs=20")
    assert facts.entropy_share > 0.999
    assert not any("T=1000" in finding.fact for finding in findings(facts, experiment))


def test_the_block_fits_eighty_columns(make_experiment):
    experiment, shares = make_experiment(), st.floats(0, 1)

    @few
    @given(st.data())
    def check(data):
        measured = [f.name for f in fields(Facts) if f.name.endswith(("_test", "_train"))]
        changes = {name: data.draw(shares) for name in (*measured, "chance", "entropy_share", "late_progress")}
        changes |= {"gradients_before": {"ce": 0.1, "kd": data.draw(st.floats(1e-6, 100))}, "parameter_ratio": 1234.5}
        facts = replace(HEALTHY, **changes)
        found = findings(facts, experiment)
        lines, everything = (block(facts, found, every_fact=every) for every in (False, True))
        assert lines[:2] == ["", HEADING] and 4 <= len(lines) <= 14
        assert everything[1 - len(lines) :] == lines[1:] and len(everything) > len(lines)
        assert max(map(len, everything)) <= 80

    check()


@pytest.fixture
def reported(make_experiment, store, tmp_path):
    """Runs and reports a command; returns the content of `diagnosis.json` (None without one) and the screen."""

    def run(*overrides):
        experiment, folder = make_experiment(f"store={store}", "limit_batches=null", *overrides), tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        report(folder, obtain(experiment), experiment, experiment.journal)
        file = folder / "diagnosis.json"
        return json.loads(file.read_text()) if file.is_file() else None, said(experiment)

    return run


HELPED = ("epochs=100", "teacher_epochs=20", "distillation.temperature=10")


@pytest.mark.slow
def test_a_student_that_is_no_better_is_diagnosed_below_the_table(reported):
    written, screen = reported("distillation.alpha=1")
    assert written["facts"]["difference"] == 0 and written["facts"]["chance"] == 1
    assert [finding["advice"] for finding in written["findings"]] == ["distillation.alpha=0.1"], "seeds would not help"
    assert screen.index("vs base") < screen.index("n = 1") < screen.index(HEADING) < screen.index("→ distillation.alpha=0.1")


@pytest.mark.slow
def test_a_better_student_is_diagnosed_on_request_only(reported):
    written, screen = reported(*HELPED)
    assert written is None and HEADING not in screen
    written, screen = reported(*HELPED, "diagnosis=always")
    assert written["facts"]["difference"] > 0 and not written["findings"]
    assert HEADING not in screen and "Soft targets at T=10 have an entropy of" in screen


@pytest.mark.slow
def test_nothing_is_measured_under_never_or_without_a_comparison(reported, monkeypatch):
    monkeypatch.setattr(diagnosis, "measure", None)
    assert reported("distillation.alpha=1", "diagnosis=never")[0] is None
    assert reported("distillation=none", "diagnosis=always")[0] is None
    written, screen = reported("optimizer=sgd", "optimizer.lr=1e30", "diagnosis=always")
    assert written is None and "distilled failed" in screen


@pytest.mark.slow
def test_a_failing_measurement_does_not_fail_the_run(reported, monkeypatch):
    def measure(*_):
        raise RuntimeError("out of memory\nand much more")

    monkeypatch.setattr(diagnosis, "measure", measure)
    written, screen = reported("distillation.alpha=1")
    assert written is None and "warning: no diagnosis of the distilled student: out of memory\n" in screen


@pytest.mark.slow
def test_a_method_with_its_own_update_has_no_gradients_to_compare(make_experiment, monkeypatch):
    from kdexp.distillation.kd import KD

    monkeypatch.setattr(KD, "update", lambda self, *given: super(KD, self).update(*given), raising=False)
    experiment = make_experiment()
    facts = measure(obtain(experiment), experiment)
    assert facts.gradients_before == facts.gradients_after == {}
    assert not any("The teacher's terms" in finding.fact for finding in findings(facts, experiment))
