"""Shows what a search would do: its values, how many trials and jobs, and what one trial would train."""

from __future__ import annotations

from rich.console import Console

from kdexp.commands.command import PlannedJob
from kdexp.commands.dry_run import preview_jobs
from kdexp.configuration.compose import Composer
from kdexp.search.plan import SearchPlan
from kdexp.search.space import Choice, Dimension, Space, value_in
from kdexp.sweep.searched import seed_words
from kdexp.text.characters import one_line
from kdexp.text.console import Screen
from kdexp.text.numbers import count


def preview_search(plan: SearchPlan, composer: Composer, console: Console | None = None) -> None:
    """Prints the dry run of a search, then that of the jobs of one trial."""
    console, settings = console or Screen(), plan.settings
    example = max(plan.spaces, key=lambda space: len(space.dimensions))
    values = example.probes()[0]
    lines = [_searched(space, plan) for space in plan.spaces]
    jobs = sum(map(plan.budget, plan.spaces)) * len(settings.seeds)
    final = (len(plan.spaces), len(plan.spaces) + 1)
    lines += [
        f"{count(jobs, 'job')} on validation images, with {seed_words(settings.seeds)}; then the best trial of each method "
        f"and the best baseline with {seed_words(settings.final_seeds)}: "
        f"{final[0] * len(settings.final_seeds)} to {final[1] * len(settings.final_seeds)} jobs",
        f"one trial of {example.method}{''.join(f', {word}' for word in values)}:",
    ]
    for line in lines:
        console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)
    words = [plan.trial_job(example, values, seed) for seed in settings.seeds]
    preview_jobs([PlannedJob(number, job, composer.compose(job)) for number, job in enumerate(words)], console)


def _searched(space: Space, plan: SearchPlan) -> str:
    values = "; ".join(map(_values, space.dimensions)) or "nothing to choose"
    return f"{space.method}: {count(plan.budget(space), 'trial')} ({plan.settings.sampler}), {values}"


def _values(dimension: Dimension) -> str:
    if isinstance(dimension, Choice):
        return f"{dimension.key} one of {', '.join(map(value_in, dimension.words))}"
    kind = ", whole numbers" * dimension.whole + ", logarithmic" * dimension.log
    low, high = (value_in(dimension.word(end)) for end in (dimension.low, dimension.high))
    return f"{dimension.key} from {low} to {high}{kind}"
