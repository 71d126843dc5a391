"""Who proposes a method's next trial: every combination in turn, independent draws, or Optuna's TPE."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from kdexp.configuration.jobs import key_of
from kdexp.search.settings import SearchSettings
from kdexp.search.space import Choice, Dimension, Space, value_in
from kdexp.search.trial import FAILED, FINISHED, PRUNED, Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

REDRAWS = 100
"""Draws for values that no earlier trial has; in a list of values the first unused ones follow."""


def budget(space: Space, settings: SearchSettings) -> int:
    """The number of trials of a method: as many as the settings say, or fewer if its space has fewer combinations."""
    return int(space.size if settings.trials is None else min(settings.trials, space.size))


def propose(space: Space, settings: SearchSettings, earlier: Sequence[Trial]) -> tuple[str, ...]:
    """The words of the next trial; they depend on the settings and the earlier trials alone, and repeat none of these.

    Of an earlier trial that is still running only the words are known.
    """
    if settings.sampler == "grid":
        return next(islice(space.combinations(), len(earlier), None))
    used = {trial.words for trial in earlier}
    if settings.sampler == "tpe" and (words := _by_tpe(space, settings, earlier)) not in used:
        return words
    return _unused(space, settings, len(earlier), used)


def _unused(space: Space, settings: SearchSettings, number: int, used: set[tuple[str, ...]]) -> tuple[str, ...]:
    """Independent draws; the same for methods that share a dimension, so that they try the same values."""
    for attempt in range(REDRAWS):
        drawn = (
            dimension.draw(Random(f"{settings.seed} {number} {attempt} {dimension.key}")) for dimension in space.dimensions
        )
        if (words := tuple(drawn)) not in used:
            return words
    return next(words for words in space.combinations() if words not in used)


def _by_tpe(space: Space, settings: SearchSettings, earlier: Sequence[Trial]) -> tuple[str, ...]:
    """The proposal of a new sampler that is shown the earlier trials, so that a resumed search goes on as if uninterrupted."""
    distributions = {dimension.key: _distribution(dimension) for dimension in space.dimensions}
    seed = Random(f"{settings.seed} {len(earlier)}").getrandbits(32)
    params = study_of(space, earlier, seed).ask(distributions).params
    return tuple(
        dimension.by_value[params[dimension.key]] if isinstance(dimension, Choice) else dimension.word(params[dimension.key])
        for dimension in space.dimensions
    )


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Choice):
        return CategoricalDistribution(list(dimension.by_value))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def study_of(space: Space, trials: Sequence[Trial], seed: int = 0) -> Study:
    """Optuna's study of a method's trials; one that failed, mostly by a loss that is not finite, counts as an accuracy of 0."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    distributions = {dimension.key: _distribution(dimension) for dimension in space.dimensions}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for trial in trials:
            study.add_trial(_as_optuna(trial, space, distributions))
    return study


def _as_optuna(trial: Trial, space: Space, distributions: dict[str, BaseDistribution]) -> Any:
    from optuna.trial import TrialState, create_trial

    states = {FINISHED: TrialState.COMPLETE, FAILED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}
    typed = {key_of(word): value_in(word) for word in trial.words}
    params = {
        dimension.key: typed[dimension.key] if isinstance(dimension, Choice) else dimension.number(typed[dimension.key])
        for dimension in space.dimensions
    }
    steps = dict(enumerate(value for curve in trial.curves for value in curve))
    value = {FINISHED: trial.value, FAILED: 0.0}.get(trial.state)
    return create_trial(
        params=params,
        distributions=distributions,
        value=value,
        intermediate_values=steps,
        state=states.get(trial.state, TrialState.RUNNING),
    )
