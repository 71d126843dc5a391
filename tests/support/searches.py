"""Searches on the digits: planned from words, and run in this process."""

import io
from pathlib import Path

from experiments import COMPOSER, SHORT
from rich.console import Console

from kdexp.commands import search
from kdexp.search.plan import SearchPlan, plan_search
from kdexp.search.trial import Score, Trial
from kdexp.search.trials import Trials
from kdexp.sweep.searched import JOURNAL

ALPHA = "distillation.alpha=interval(0,1)"
SEEDS = ("search.seeds=[0,1]", "search.fresh_seeds=[7]")


def planned(*words: str) -> SearchPlan:
    """The plan of a command without problems."""
    plan, found = plan_search(words, COMPOSER, words)
    assert found == [] and plan is not None
    return plan


def problems(*words: str) -> list[str]:
    """The problems of a command, as they are printed."""
    return [str(problem) for problem in plan_search(words, COMPOSER, words)[1]]


def run_search(folder: Path, *words: str, short: tuple[str, ...] = SHORT) -> tuple[Path, str]:
    """Runs a short search; returns its folder and what was printed."""
    screen = io.StringIO()
    plan = planned(f"output_dir={folder}", *short, *SEEDS, *words)
    return search.run_search(plan, COMPOSER, ["search"], Console(file=screen, width=200)), screen.getvalue()


def trials_in(folder: Path) -> list[Trial]:
    """The trials of the search in a folder."""
    return Trials.read(folder / JOURNAL).all


def finished(number: int, *words: str, value: float = 0.5, curve: tuple[float, ...] = (), method: str = "kd") -> Trial:
    """A trial with one seed that reached this validation accuracy."""
    return Trial(number, method, words, {0: Score(value, None, curve or (value,))}, state="finished")
