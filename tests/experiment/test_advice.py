"""Suggested overrides are accepted by the configuration, and reasonable."""

import math
import re
from dataclasses import replace
from functools import cache

import pytest
from diagnosed import HEALTHY
from experiments import COMPOSER, compose_command
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kdexp.configuration.compose import as_plain
from kdexp.experiment import advice
from kdexp.report import findings
from kdexp.validation.validator import Validator

BASES = {
    "kd": (),
    "nearly all labels": ("distillation.alpha=0.9999999999999",),
    "nearly no labels": ("distillation.alpha=1e-12",),
    "labels alone": ("distillation.alpha=1",),
    "own weights": ("distillation.alpha=null", "distillation.ce_weight=1e-9", "distillation.kd_weight=1e9"),
    "no weights": ("distillation=hint", "distillation.weight=0"),
    "method": ("distillation=mse_logits", "distillation.weight=1e9"),
    "two terms": ("distillation=dkd", "distillation.weight=1e-30"),
    "several methods": ("distillation=sum",),
    "huge numbers": ("optimizer.lr=1e6", "teacher_optimizer.lr=1e30", "epochs=5000000", "teacher_epochs=5000000"),
    "tiny numbers": ("optimizer=sgd", "optimizer.lr=2e-38", "teacher_optimizer.lr=2e-38", "epochs=1"),
    "all images": ("dataset.student_fraction=1", "distillation.temperature=1e-6"),
    "foreign teacher": ("teacher.checkpoint=teacher.pt",),
}
EXPLAIN = ("wrong_order", "diverged", "mute", "no_headroom", "noise", "weak_teacher", "poor_fit", "faint", "sharp")
shares = st.sampled_from([0.0, 0.05, 0.11, 0.5, 0.93, 0.985, 0.999, 1.0])
numbers = st.sampled_from([0.0, 1e-300, 1e-9, 0.01, 1.0, 60.0, 1e9, 1e300, math.inf, math.nan])
CHANGES = {
    **{f"{role}_{data}": shares for role in ("teacher", "baseline", "distilled") for data in ("test", "train")},
    **dict.fromkeys(("chance", "entropy_share", "majority_train"), shares),
    **dict.fromkeys(("softer_temperature", "objective_before", "objective_after", "parameter_ratio"), numbers),
    "late_progress": st.sampled_from([None, 0.0, 0.5]),
    "teacher_reordered": st.sampled_from(["", "with its classes renamed 97.00 %"]),
    "teacher_diverged": st.booleans(),
    "gradients_before": st.dictionaries(st.sampled_from(["ce", "kd", "hint", "mse_logits", "target", "rkd.angle"]), numbers),
}


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_every_suggested_override_is_accepted_and_reasonable(make_experiment, base):
    experiment, validator = make_experiment(), Validator()
    experiment.config = as_plain(compose_command(BASES[base]))
    experiment.settings = replace(experiment.settings, **{k: experiment.config[k] for k in ("epochs", "teacher_epochs")})
    given_words = [word for word in BASES[base] if not word.startswith("teacher.checkpoint")]

    @cache
    def problems(words):
        replaces = any(word.startswith("distillation=") for word in words)  # another method has other settings
        kept = [word for word in given_words if not (replaces and word.startswith("distillation"))]
        return validator.problems(COMPOSER.compose([*kept, *words]))

    @settings(max_examples=40, phases=[Phase.generate])
    @given(st.fixed_dictionaries(CHANGES))
    def check(changes):
        facts = replace(HEALTHY, **changes)
        assert findings.findings(facts, experiment)
        for explain in EXPLAIN:
            finding = getattr(findings, explain)(facts, experiment)
            if finding:
                assert finding.fact and finding.advice
                words = tuple(word.partition(",")[0] for word in re.findall(r"[\w.]+=\S+", finding.advice))
                for word in words:
                    key, _, value = word.rpartition("=")
                    assert problems((word,)) == [], (explain, facts)
                    assert sensible(key.rpartition(".")[2], value), (explain, word)
                assert problems(words) == []

    check()


def sensible(name, value):
    bounds = {
        "lr": (0, 1),
        "temperature": (0, 100),
        "epochs": (0, 10_000),
        "teacher_epochs": (0, 5_000_000),
        "alpha": (0, 0.99),
    }
    low, high = bounds.get(name, (-math.inf, math.inf))
    return name == "distillation" or low < float(value) <= high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "lower", "higher"),
    [
        (("optimizer.lr=0.002",), "optimizer.lr=0.0002", "optimizer.lr=0.006"),
        (("optimizer.lr=0.008",), "optimizer.lr=0.0008", ""),
        (("optimizer=adamw", "optimizer.lr=1e6"), "optimizer.lr=0.01", ""),
        (("optimizer=sgd",), "optimizer.lr=0.005", "optimizer.lr=0.15"),
        (("optimizer=sgd", "optimizer.lr=0.5"), "optimizer.lr=0.05", ""),
        (("optimizer=sgd", "optimizer.lr=1e30"), "optimizer.lr=1", ""),
        (("optimizer.lr=1e-30",), "optimizer.lr=1e-31", "optimizer.lr=3e-30"),
    ],
)
def test_suggested_learning_rates_are_reasonable(words, lower, higher):
    config = compose_command(words)
    assert (advice.lower_rate(config, "optimizer"), advice.higher_rate(config, "optimizer")) == (lower, higher)


@pytest.mark.parametrize(("share", "less"), [("1", ", or dataset.student_fraction=0.1"), ("0.1", "")])
def test_fewer_images_are_suggested_only_if_every_class_keeps_some(make_experiment, share, less):
    saturated = replace(HEALTHY, baseline_test=1.0, teacher_test=1.0, chance=1.0)
    (finding,) = findings.findings(saturated, make_experiment(f"dataset.student_fraction={share}"))
    assert finding.advice == f"harder data{less}"


def test_a_term_without_weight_gets_the_weight_of_its_yaml(make_experiment):
    experiment = make_experiment("distillation=semckd", "distillation.weight=0")
    (finding,) = findings.findings(replace(HEALTHY, gradients_before={"ce": 1.0}), experiment)
    assert finding == ("The teacher's terms have no weight", "distillation.weight=400")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "way"),
    [
        (("optimizer=sgd", "optimizer@teacher_optimizer=adam", "optimizer.lr=1e30"), "baseline failed: ce loss became"),
        (("optimizer=sgd", "teacher_optimizer.lr=1e30"), "teacher failed: ce loss became"),
    ],
)
def test_a_lower_rate_is_suggested_if_the_loss_is_not_a_number(here, words, way):
    code, shown = here("epochs=2", "device=cpu", *words)
    node = "teacher_optimizer" if "teacher failed" in way else "optimizer"
    printed = " ".join(shown.out.split())
    assert code == 3 and way in printed and f"; try {node}.lr=1 " in f"{printed} "


@pytest.mark.slow
def test_a_lower_rate_is_suggested_for_a_diverging_student(here):
    code, shown = here("epochs=3", "teacher_epochs=3", "device=cpu", "optimizer.lr=1e6")
    assert code == 0 and "The student diverged: its loss rose from" in shown.out and "→ optimizer.lr=0.01" in shown.out
    assert "epochs=" not in shown.out.partition("what to try:")[2]
