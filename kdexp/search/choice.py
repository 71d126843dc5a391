"""What a search has chosen, on validation images alone: each method's best trial, and the best baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kdexp.configuration.jobs import key_of
from kdexp.search.plan import METHOD, Config, SearchPlan
from kdexp.search.space import Space
from kdexp.search.trial import FAILED, FINISHED, PRUNED, Trial
from kdexp.sweep.axes import AxisValues, axis_values

Compose = Callable[[Sequence[str]], Config]


@dataclass(frozen=True)
class Chosen:
    """The words of a final job without its seed, and why it is trained: a method, or `baseline`."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Baselines:
    """The distinct baselines that were trained next to the trials of all methods."""

    count: int
    best: Trial | None
    """The trial whose baseline has the highest mean validation accuracy."""


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """The finished trial with the highest mean validation accuracy, the first of equals."""
    finished = [trial for trial in trials if trial.value is not None]
    return max(finished, key=lambda trial: trial.value or 0.0, default=None)


def baselines(plan: SearchPlan, trials: Sequence[Trial], compose: Compose) -> Baselines:
    """The baselines of all finished trials; that of a trial without distillation is its student."""
    found: dict[str, tuple[float, Trial]] = {}
    for trial in trials:
        value = trial.value if _is_baseline(plan, trial) else trial.baseline
        if value is not None:
            found.setdefault(str(baseline_settings(job_words(plan, trial), compose)), (value, trial))
    best = max(found.values(), key=lambda pair: pair[0], default=None)
    return Baselines(len(found), best[1] if best else None)


def final_words(plan: SearchPlan, trials: Sequence[Trial], compose: Compose) -> list[Chosen]:
    """What is trained with fresh seeds: each method's best trial, and the best baseline unless that is next to one of them."""
    winners = [(space, best_trial(trial for trial in trials if trial.method == space.method)) for space in plan.spaces]
    chosen = [Chosen(space.method, (*space.fixed, *winner.words)) for space, winner in winners if winner]
    best = baselines(plan, trials, compose).best
    if best is not None:
        wanted = baseline_settings(job_words(plan, best), compose)
        if all(baseline_settings(each.words, compose) != wanted for each in chosen):
            chosen.append(Chosen("baseline", _without_distillation(job_words(plan, best))))
    return chosen


def job_words(plan: SearchPlan, trial: Trial) -> tuple[str, ...]:
    """The overrides of a trial without its seed."""
    return (*space_of(plan, trial).fixed, *trial.words)


def space_of(plan: SearchPlan, trial: Trial) -> Space:
    """The space that a trial is a point of."""
    return next(space for space in plan.spaces if space.method == trial.method)


def baseline_settings(words: Sequence[str], compose: Compose) -> AxisValues:
    """Everything that the baseline of a job depends on, apart from its seed."""
    return axis_values(compose(words), "baseline")


def distills(config: Config) -> bool:
    """Whether a configuration has a distilled student next to its baseline."""
    return config[METHOD]["_target_"] != config["baseline"]["_target_"]


def _is_baseline(plan: SearchPlan, trial: Trial) -> bool:
    position = [space.method for space in plan.spaces].index(trial.method)
    return not distills(plan.configs[position][0])


def _without_distillation(words: Sequence[str]) -> tuple[str, ...]:
    """The same job without its distilled student."""
    kept = [word for word in words if key_of(word).partition(".")[0] not in (METHOD, "views")]
    return (*kept, f"{METHOD}=none")


def _chosen_baselines(plan: SearchPlan, trials: Sequence[Trial], compose: Compose) -> Iterator[dict[str, Any]]:
    """Settings of the baselines that were chosen, and among how many: the best of all, and that of a method without teacher."""
    counted = baselines(plan, trials, compose)
    if counted.best:
        yield {"settings": baseline_settings(job_words(plan, counted.best), compose), "trials": counted.count}
    for space in plan.spaces:
        own = [trial for trial in trials if trial.method == space.method]
        if (best := best_trial(own)) and _is_baseline(plan, best):
            yield {"settings": baseline_settings(job_words(plan, best), compose), "trials": len(own)}


def summary(plan: SearchPlan, trials: Sequence[Trial], compose: Compose) -> dict[str, Any]:
    """What `search.json` says: the trials of each method, what was chosen and by which seeds; declared as `Searched`."""
    found: dict[str, Any] = {}
    for space in plan.spaces:
        own = [trial for trial in trials if trial.method == space.method]
        states, best = Counter(trial.state for trial in own), best_trial(own)
        found[space.method] = {
            "trials": len(own),
            **{state: states[state] for state in (FINISHED, PRUNED, FAILED)},
            "validation": best.value if best else None,
            "words": list(best.words) if best else [],
        }
    settings = plan.settings
    return {
        "sampler": settings.sampler,
        "seeds": settings.seeds,
        "fresh_seeds": settings.final_seeds,
        "methods": found,
        "baselines": list(_chosen_baselines(plan, trials, compose)),
    }
