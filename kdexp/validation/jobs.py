"""Composes and checks all jobs of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdexp.configuration.compose import Composer
from kdexp.configuration.overrides import Overrides, explain_partial, of_jobs
from kdexp.errors import Problem


def compose_and_check(
    jobs: Sequence[Sequence[str]], composer: Composer, words: Sequence[str] = (), *, thoroughly: bool = True
) -> tuple[list[Mapping[str, Any]], list[Problem]]:
    """The composed configuration of every job, and all problems of all jobs.

    `words` are those of the command, for the commands that messages suggest. Unless `thoroughly`, values are not checked,
    which saves importing torch.
    """
    validate = None
    if thoroughly:
        from kdexp.validation.validator import Validator  # imports torch

        validate = Validator().problems
    overrides = Overrides(composer, words)
    configs: list[Mapping[str, Any]] = []
    affected: dict[Problem, list[int]] = {}
    for number, job in enumerate(jobs):
        composed = overrides.compose(job)
        configs.append(composed.config)
        found = list(composed.problems)
        if validate is not None:
            of_values = validate(composed.config, parts=not composed.lacks_option(composer))
            found += [overrides.advise(problem, job) for problem in of_values if not composed.follows(problem)]
        for problem in dict.fromkeys(found):
            affected.setdefault(problem, []).append(number)
    explained = []
    for problem, numbers in affected.items():
        partial = explain_partial(problem, words, jobs, composer)
        explained.append(of_jobs(problem, numbers, jobs) if partial == problem else partial)
    return configs, list(dict.fromkeys(explained))
