"""Judging a teacher's predictions: near chance, worse than a constant prediction, or classes in another order."""

import math

import pytest
import torch
from experiments import said

from kdexp.experiment.obtain import obtain
from kdexp.tasks.judgement import Judgement, binomial_tail


@pytest.mark.parametrize(
    ("hits", "trials", "share"), [(0, 5, 0.3), (3, 7, 0.4), (7, 7, 0.9), (60, 200, 0.25), (1, 9, 0.0), (9, 9, 1.0)]
)
def test_the_tail_equals_a_sum_of_binomial_probabilities(hits, trials, share):
    by_hand = sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1))
    assert binomial_tail(hits, trials, share) == pytest.approx(by_hand)


def test_the_tail_of_many_images_is_quick_and_finite():
    assert binomial_tail(50_100, 100_000, 0.5) == pytest.approx(0.264, abs=0.002)


def answers(labels, right, wrong=1):
    """Logits [N, K] that predict the label for the first `right` of each ten images, else the class `wrong` further on."""
    classes = int(labels.max()) + 1
    named = torch.where(torch.arange(len(labels)) % 10 < right, labels, (labels + wrong) % classes)
    return torch.eye(classes)[named]


BALANCED = torch.arange(1000) // 10 % 10
SKEWED = (torch.arange(1000) % 100 >= 94).long()
"""94 % of class 0."""
ORDER = "classes in another order than the labels: test accuracy"
CASES = {
    "good": (BALANCED, answers(BALANCED, 9), ""),
    "weak, but no luck": (BALANCED, torch.eye(10)[(BALANCED + torch.arange(1000) % 7).clamp(max=9)], ""),
    "one answer": (
        BALANCED,
        torch.eye(10)[torch.full((1000,), 3)],
        "near chance: test accuracy 10.00 %, and always naming the ",
    ),
    "the majority": (
        SKEWED,
        torch.eye(2)[torch.zeros(1000).long()],
        "has 94.00 %, naming any at random 50.00 %; what it teaches is noise",
    ),
    "a little above the majority": (SKEWED, torch.eye(2)[(torch.arange(1000) % 1000 >= 995).long()], "is near chance"),
    "the minority": (SKEWED, torch.eye(2)[torch.ones(1000).long()], "worse than a constant answer: test accuracy 6.00 %, and"),
    "useful, but below the majority": (SKEWED, answers(SKEWED, 8), "worse than a constant answer: test accuracy 80"),
    "all classes shifted": (BALANCED, answers(BALANCED, 0), f"{ORDER} 0.00 %, with its classes renamed 100.00 %"),
    "two swapped": (SKEWED, torch.eye(2)[1 - SKEWED], f"{ORDER} 0.00 %"),
    "three of ten shifted": (
        BALANCED,
        torch.eye(10)[torch.tensor([1, 2, 0, *range(3, 10)])[BALANCED]],
        f"{ORDER} 70.00 %, with its classes renamed 100.00 %",
    ),
    "weak and reordered": (
        BALANCED,
        answers(BALANCED, 0, 3)[torch.arange(1000) ^ (torch.arange(1000) % 3)],
        ORDER,
    ),
    "too few images to tell": (torch.arange(20) // 2, answers(torch.arange(20) // 2, 0), "is near chance"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_teacher_is_compared_with_guessing(case):
    labels, logits, sentence = CASES[case]
    warning = Judgement.of(logits, labels).warning("the teacher")
    assert sentence in warning and bool(sentence) == bool(warning), warning


def test_random_answers_are_never_called_reordered():
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        classes = 2 + seed % 9
        labels, logits = torch.randint(classes, (120,), generator=generator), torch.randn(120, classes, generator=generator)
        assert not Judgement.of(logits, labels).reordered


def test_many_classes_take_little_memory_and_time():
    labels = torch.arange(30_000)
    assert Judgement.of(torch.eye(64)[labels % 64], labels % 64).renamed == 1
    pairs = Judgement.of(torch.randn(500, 21_841), labels[:500])
    assert pairs.classes == 21_841 and not pairs.reordered


@pytest.mark.slow
def test_a_checkpoint_with_its_classes_in_another_order_is_warned_of(make_experiment, tmp_path):
    experiment = make_experiment("teacher_epochs=10", "limit_batches=null")
    (trained,) = obtain(experiment, ["teacher"])
    weights = {name.removeprefix("model."): value for name, value in trained.stored.tensors("last").items()}
    order = torch.tensor([3, 0, 4, 1, 2, 9, 5, 6, 7, 8])
    weights = {name: value[order] if len(value) == 10 else value for name, value in weights.items()}
    torch.save(weights, tmp_path / "teacher.pt")
    reordered = make_experiment(f"teacher.checkpoint={tmp_path}/teacher.pt")
    obtain(reordered)
    printed = said(reordered)
    assert "warning: the teacher seems to have its classes in another order than the labels: test accuracy" in printed
    assert "near chance" not in printed
