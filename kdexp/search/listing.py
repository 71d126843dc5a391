"""`search.csv`: a line for every trial of a search, with its values and what it reached on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdexp.configuration.jobs import key_of
from kdexp.report.table import csv_text
from kdexp.search.space import value_in
from kdexp.search.trial import Trial

LISTING = "search.csv"


def listing(trials: Sequence[Trial]) -> str:
    """The content of the file; accuracies are fractions of 1."""
    keys = dict.fromkeys(key_of(word) for trial in trials for word in trial.words)
    seeds = dict.fromkeys(_by_seed(seed) for trial in trials for seed in trial.scores)
    names = ["trial", "method", *keys, "state", "validation", "baseline_validation", *seeds, "reason"]
    return csv_text(names, list(map(_line, trials)))


def _by_seed(seed: int) -> str:
    return f"validation_seed_{seed}"


def _line(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number + 1,
        "method": trial.method,
        **{key_of(word): value_in(word) for word in trial.words},
        "state": trial.state,
        "validation": trial.value,
        "baseline_validation": trial.baseline,
        **{_by_seed(seed): score.student for seed, score in trial.scores.items()},
        "reason": trial.reason,
    }
