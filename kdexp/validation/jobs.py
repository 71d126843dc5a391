"""Composes and checks all jobs of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdexp.configuration.compose import Composer
from kdexp.configuration.overrides import Overrides, explain_partial, of_jobs
from kdexp.device.garbage import importing_torch
from kdexp.errors import Problem


class JobCheck:
    """Composes and checks jobs one by one; what they have in common is done once.

    `words` are those of the command, for the commands that messages suggest. Unless `thoroughly`, values are not checked,
    which saves importing torch. With `elsewhere`, the jobs will run on other machines, whose devices are not known here.
    """

    def __init__(
        self, composer: Composer, words: Sequence[str] = (), *, thoroughly: bool = True, elsewhere: bool = False
    ) -> None:
        self._composer = composer
        self._overrides = Overrides(composer, words)
        self._validate = None
        if thoroughly:
            with importing_torch():
                from kdexp.validation.validator import Validator

            self._validate = Validator(elsewhere=elsewhere).problems

    def check(self, job: Sequence[str]) -> tuple[Mapping[str, Any], list[Problem]]:
        """A job's composed configuration and its problems."""
        composed = self._overrides.compose(job)
        found = list(composed.problems)
        if self._validate is not None:
            of_values = self._validate(composed.config, parts=not composed.lacks_option(self._composer))
            found += [self._overrides.advise(problem, job) for problem in of_values if not composed.follows(problem)]
        return composed.config, list(dict.fromkeys(found))


def compose_and_check(
    jobs: Sequence[Sequence[str]],
    composer: Composer,
    words: Sequence[str] = (),
    *,
    thoroughly: bool = True,
    elsewhere: bool = False,
) -> tuple[list[Mapping[str, Any]], list[Problem]]:
    """The composed configuration of every job, and all problems of all jobs; the options are those of `JobCheck`."""
    checks = JobCheck(composer, words, thoroughly=thoroughly, elsewhere=elsewhere)
    configs: list[Mapping[str, Any]] = []
    affected: dict[Problem, list[int]] = {}
    for number, job in enumerate(jobs):
        config, found = checks.check(job)
        configs.append(config)
        for problem in found:
            affected.setdefault(problem, []).append(number)
    if thoroughly:
        from kdexp.validation.unasked import unasked_teacher  # imports torch

        affected |= {problem: list(range(len(jobs))) for problem in unasked_teacher(jobs, configs)}
    explained = []
    for problem, numbers in affected.items():
        partial = explain_partial(problem, words, jobs, composer)
        explained.append(of_jobs(problem, numbers, jobs) if partial == problem else partial)
    return configs, list(dict.fromkeys(explained))
