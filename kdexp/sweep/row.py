"""A row of a comparison: one configuration, its seeds folded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kdexp.report.published import Reference, reference
from kdexp.sweep.axes import AxisValues
from kdexp.sweep.difference import Difference, Pairs
from kdexp.sweep.observations import Observation
from kdexp.sweep.statistics import std_of

BEST, BEST_OF_METHOD = "★", "☆"


@dataclass
class SweepRow:
    """One configuration under the seeds that finished. Accuracies are shares of 1, standard deviations the sample ones."""

    role: str
    model: str
    method: str
    option: str
    """What was chosen for its method on the command line."""
    settings: AxisValues
    parameters: int
    seeds: list[int]
    keys: list[str]
    """In the store, by seed."""
    jobs: list[str]
    """The folders of the jobs it was read from, by seed."""
    test: list[float]
    """After the last epoch, by seed."""
    validation: list[float | None]
    test_mean: float
    test_std: float | None
    validation_mean: float | None
    """None unless every seed has one."""
    mark: str = ""
    """★ the best of its student's configurations on validation data, ☆ the best of its method; else empty."""
    chosen_among: int = 1
    """Of how many configurations the mark says that it is the best."""
    fresh_command: str = ""
    """What trains a marked configuration with seeds that no job had."""
    difference: Difference | None = None
    published: Reference | None = None
    standard_errors: float | None = None
    """From what was published to `test_mean`, as `Reference.distance` counts them."""

    @property
    def short_method(self) -> str:
        """Its option, but `none` says less than the objective."""
        return self.method if self.option == "none" else self.option

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.seeds)

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> SweepRow:
        """Folds the observations of one configuration."""
        ordered = sorted(observations, key=lambda one: one.result.seed)
        results, first = [one.result for one in ordered], ordered[0]
        test, validation = [result.test for result in results], [result.validation for result in results]
        known = [value for value in validation if value is not None]
        numbers = (reference(one.job.config, one.role, one.job.overrides) for one in ordered)
        published = next((number for number in numbers if number is not None), None)
        mean, std = fmean(test), std_of(test)
        return cls(
            role=first.role,
            model=first.result.model,
            method=first.result.method,
            option=first.method,
            settings=first.settings,
            parameters=first.result.parameters,
            seeds=[result.seed for result in results],
            keys=[result.key for result in results],
            jobs=[str(one.job.folder) for one in ordered],
            test=test,
            validation=validation,
            test_mean=mean,
            test_std=std,
            validation_mean=fmean(known) if len(known) == len(validation) else None,
            difference=Pairs.of(ordered).difference(),
            published=published,
            standard_errors=published.distance(mean, std, len(test)) if published else None,
        )
