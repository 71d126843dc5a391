"""What is refused of a pretraining, and the options and values that a dry run shows of one."""

import pytest
from experiments import COMPOSER

from kdexp.commands.differences import different_options, different_values
from kdexp.configuration.overrides import Overrides
from kdexp.validation.validator import Validator

VALIDATOR = Validator()
START = ("pretraining=simclr", "student=convnet_small")
STRONG = "strong@dataset.strong_view=geometric"
REFUSED = [
    ("pretraining.temperature=0", "pretraining.temperature=0: must be above 0"),
    ("pretraining.epochs=0", "pretraining.epochs=0: must be at least 1"),
    ("pretraining.batch_size=1", "pretraining.batch_size=1: must be at least 2"),
    ("pretraining.hidden=0", "pretraining.hidden=0: must be at least 1"),
    ("pretraining.frozen_backbone=1", "pretraining.frozen_backbone=1: must be true or false"),
    ("pretraining.optimizer.lr=-1", "pretraining.optimizer.lr=-1: must be above 0"),
    ("pretraining.schedule.final_fraction=2", "pretraining.schedule.final_fraction=2: must be at"),
    ("+pretraining.tau=1", "pretraining.tau: unknown key"),
    ("~pretraining.epochs", "pretraining.epochs: missing"),
    ("~pretraining.optimizer", "pretraining.optimizer: missing"),
    ("pretraining._target_=kdexp.distillation.kd.KD", "must be a class derived from kdexp.pretraining.base.Pretraining"),
    ("strong@dataset.strong_view=none", "pretraining: reads strong and strong2 views, and there is no RandAugment for these"),
    ("devices=2", "pretraining=simclr: is not known to treat each image of a batch by itself"),
]


def problems(*words):
    return [str(problem) for problem in VALIDATOR.problems(COMPOSER.compose([*START, *words]))]


@pytest.mark.parametrize(("word", "sentence"), REFUSED, ids=[word for word, _ in REFUSED])
def test_refused(word, sentence):
    found = problems(STRONG, word)
    assert any(sentence in problem for problem in found), found


def test_an_unknown_option_is_answered_with_the_known_ones():
    (problem,) = Overrides(COMPOSER, []).compose(["pretraining=simclrr"]).problems
    assert str(problem) == "pretraining='simclrr': no such option; did you mean simclr? known: none, simclr"


@pytest.mark.parametrize("words", [(), ("pretraining=none",), ("~pretraining",), ("pretraining.frozen_backbone=true",)])
def test_accepted(words):
    assert problems(STRONG, *words) == []


@pytest.mark.slow
def test_a_dry_run_names_what_is_not_as_by_default():
    config = COMPOSER.compose([*START, "pretraining.epochs=7"])
    assert different_options(config, COMPOSER) == ["pretraining=simclr", "student=convnet_small"]
    assert different_values(config, COMPOSER) == ["pretraining.epochs=7"]
    other = COMPOSER.compose([*START, "optimizer@pretraining.optimizer=sgd", "pretraining.optimizer.lr=2"])
    assert "optimizer@pretraining.optimizer=sgd" in different_options(other, COMPOSER)
    assert different_values(other, COMPOSER) == ["pretraining.optimizer.lr=2"]
