"""What can't be searched: keys that a search sets or compares on, and values that a grid or an interval can't have."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from kdexp.configuration.jobs import MOST_JOBS, key_of
from kdexp.errors import Problem
from kdexp.search.settings import SearchSettings
from kdexp.search.space import Choice, Dimension, Interval, Space

IMAGES = ("dataset", "dataset.root", "dataset.val_fraction", "dataset.test_fraction", "dataset.split_seed")
"""Keys that decide which images are used for validation."""


def refused_keys(fixed: Sequence[str], dimensions: Sequence[Dimension]) -> Iterator[Problem]:
    """Problems of keys that a search sets itself, or that would change what trials are compared on."""
    keys = [*map(key_of, fixed), *(dimension.key for dimension in dimensions)]
    if "seed" in keys:
        yield Problem("seed", "a search sets it: 'search.seeds=[0,1,2]' names the seeds of every trial")
    for dimension in dimensions:
        if dimension.key in IMAGES:
            sentence = "trials are compared on the same validation images, which this would change; give one value"
            yield Problem(dimension.key, sentence)


def with_whole_numbers(problem: Problem, space: Space) -> Problem:
    """The problem; that of an interval in which only whole numbers are right, with the way to write it."""
    for one in space.dimensions:
        if isinstance(one, Interval) and one.key == problem.name and "must be a whole number" in problem.sentence:
            log = "tag(log,int(interval({})))" if one.log else "int(interval({}))"
            fix = f"{one.typed}={log.format(f'{one.low:g},{one.high:g}')}"
            return Problem(problem.name, f"{problem.sentence}; write {shlex.quote(fix)}")
    return problem


def grid_problems(space: Space, settings: SearchSettings) -> Iterator[Problem]:
    """Problems of a space that a grid can't go through, or not within the trials."""
    if settings.sampler != "grid":
        return
    for dimension in space.dimensions:
        if not isinstance(dimension, Choice) and not dimension.whole:
            listing = ",".join(f"{value:g}" for value in (dimension.low, dimension.high))
            yield Problem(dimension.key, f"a grid needs a list of values, such as {listing}; search=random takes intervals")
    if space.size > MOST_JOBS and space.size != float("inf"):
        yield Problem(
            "search", f"='grid': {int(space.size):,} combinations are more than {MOST_JOBS:,}; search=random draws some"
        )
    elif settings.trials is not None and settings.trials < space.size != float("inf"):
        sentence = (
            f"={settings.trials}: the grid has {int(space.size):,} combinations; leave search.trials out, or search=random"
        )
        yield Problem("search.trials", sentence)
