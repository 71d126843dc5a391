"""All jobs of a command, composed and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdexp.configuration.compose import Composer
from kdexp.configuration.overrides import Overrides, explain_partial, of_jobs
from kdexp.errors import Problem


def check(
    jobs: Sequence[Sequence[str]], composer: Composer, words: Sequence[str] = (), *, thoroughly: bool = True
) -> tuple[list[Mapping[str, Any]], list[Problem]]:
    """The composed configuration of every job, and everything that is wrong with any of them.

    `words` are those of the command; unless `thoroughly`, jobs are composed, but their values are not looked at.
    """
    validate = None
    if thoroughly:
        from kdexp.validation.validator import Validator  # imports torch

        validate = Validator().problems
    made = Overrides(composer, words)
    configs: list[Mapping[str, Any]] = []
    affected: dict[Problem, list[int]] = {}
    for number, job in enumerate(jobs):
        composed = made.compose(job)
        found = list(composed.problems)
        configs.append(composed.config)
        if validate is not None:
            of_values = validate(composed.config, parts=not composed.lacks_option(composer))
            found += [made.advise(each, job) for each in of_values if not composed.follows(each)]
        for problem in dict.fromkeys(found):
            affected.setdefault(problem, []).append(number)
    explained = []
    for problem, numbers in affected.items():
        partial = explain_partial(problem, words, jobs, composer)
        explained.append(of_jobs(problem, numbers, jobs) if partial == problem else partial)
    return configs, list(dict.fromkeys(explained))
