"""What a search chooses: each method's best trial and the best baseline, by validation accuracy alone."""

from experiments import COMPOSER
from searches import ALPHA, finished, planned

from kdexp.search.choice import final_words, summary
from kdexp.search.trial import FAILED, PRUNED, Score, Trial

PLAN = planned("search=random", "search.trials=3", "distillation=kd,mse_logits", ALPHA, "optimizer.lr=0.1,0.01")
COMPOSE = COMPOSER.compose


def trial(number, method, alpha, rate, student, baseline=None):
    found = finished(number, f"distillation.alpha={alpha}", f"optimizer.lr={rate}", method=method)
    found.scores[0] = Score(student, baseline, (student,))
    return found


def test_the_best_of_each_method_and_a_baseline_of_its_own():
    trials = [
        trial(0, "kd", 0.1, 0.1, 0.8, 0.6),
        trial(1, "mse_logits", 0.2, 0.1, 0.9, 0.6),
        trial(2, "kd", 0.3, 0.01, 0.7, 0.65),
        Trial(3, "kd", ("distillation.alpha=0.4", "optimizer.lr=0.1"), state=FAILED),
        Trial(4, "kd", ("distillation.alpha=0.5", "optimizer.lr=0.1"), partial=(0.99,), state=PRUNED),
    ]
    chosen = {each.name: each.words for each in final_words(PLAN, trials, COMPOSE)}
    assert chosen == {
        "kd": ("distillation=kd", "distillation.alpha=0.1", "optimizer.lr=0.1"),
        "mse_logits": ("distillation=mse_logits", "distillation.alpha=0.2", "optimizer.lr=0.1"),
        "baseline": ("optimizer.lr=0.01", "distillation=none"),
    }
    found = summary(PLAN, trials, COMPOSE)
    assert found["methods"]["kd"] == {
        "trials": 4,
        "finished": 2,
        "pruned": 1,
        "failed": 1,
        "validation": 0.8,
        "words": ["distillation.alpha=0.1", "optimizer.lr=0.1"],
    }
    assert [each["trials"] for each in found["baselines"]] == [2]
    assert found["baselines"][0]["settings"]["optimizer.lr"] == 0.01


def test_the_winners_own_baseline_is_enough_if_it_is_the_best():
    trials = [trial(0, "kd", 0.1, 0.1, 0.8, 0.6), trial(1, "mse_logits", 0.2, 0.01, 0.9, 0.5)]
    assert [each.name for each in final_words(PLAN, trials, COMPOSE)] == ["kd", "mse_logits"]


def test_a_method_without_teacher_is_a_baseline_with_a_budget():
    plan = planned("search=random", "distillation=none,kd", "optimizer.lr=0.1,0.01,0.001")
    trials = [
        finished(0, "optimizer.lr=0.1", value=0.7, method="none"),
        finished(1, "optimizer.lr=0.01", value=0.6, method="none"),
        trial(2, "kd", 0.5, 0.001, 0.9, 0.5),
    ]
    trials[2].words = ("optimizer.lr=0.001",)
    assert [each.name for each in final_words(plan, trials, COMPOSE)] == ["none", "kd"]
    assert [each["trials"] for each in summary(plan, trials, COMPOSE)["baselines"]] == [3, 2]
