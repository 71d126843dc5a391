"""A row of a comparison: one configuration, averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from kdexp.report.published import Reference, reference
from kdexp.sweep.axes import AxisValues
from kdexp.sweep.difference import Difference, Pairs
from kdexp.sweep.observations import Observation
from kdexp.tasks.statistics import std_of

BEST, BEST_OF_METHOD = "★", "☆"


@dataclass
class SweepRow:
    """One configuration with all seeds that finished. Accuracies are fractions of 1, standard deviations use n−1."""

    role: str
    model: str
    method: str
    option: str
    """Option of its method on the command line."""
    settings: AxisValues
    parameters: int
    seeds: list[int]
    keys: list[str]
    """Keys in the store, by seed."""
    jobs: list[str]
    """Folders of its jobs, by seed."""
    test: list[float]
    """Test accuracy after the last epoch, by seed."""
    validation: list[float | None]
    test_mean: float
    test_std: float | None
    validation_mean: float | None
    """None unless every seed has one."""
    balanced_mean: float | None = None
    """Mean test accuracy of the classes, if they are imbalanced in the test images; with its standard deviation over seeds."""
    balanced_std: float | None = None
    majority: float | None = None
    """Share of the largest class in the test images, if the classes are imbalanced."""
    mark: str = ""
    """★ for the student's best configuration on validation data, ☆ for the best of its method, else empty."""
    chosen_among: int = 1
    """Number of configurations among which the mark was given."""
    trials: int | None = None
    """Number of trials among which a search chose its values, on validation images with other seeds."""
    latency_ms: float | None = None
    """Median of its measured latencies (`latency=true`), in milliseconds per image."""
    fresh_command: str = ""
    """Command that trains a marked configuration with new seeds."""
    difference: Difference | None = None
    published: Reference | None = None
    standard_errors: float | None = None
    """Distance of `test_mean` from the published number; see `Reference.distance`."""

    @property
    def drawn_as(self) -> str:
        """Name that decides its colour and mark in pictures."""
        return self.option if self.role == "distilled" else self.role

    @property
    def short_method(self) -> str:
        """The option, or the objective if the option is `none`."""
        return self.method if self.option == "none" else self.option

    @property
    def network(self) -> tuple[str, int, bool]:
        """What its latency depends on: model, parameters, and whether it is quantised."""
        return self.model, self.parameters, self.role == "int8"

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.seeds)

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> SweepRow:
        """Averages the observations of one configuration."""
        ordered = sorted(observations, key=lambda each: each.result.seed)
        results, first = [each.result for each in ordered], ordered[0]
        test, validation = [result.test for result in results], [result.validation for result in results]
        balanced = [result.balanced for result in results if result.balanced is not None]
        known = [value for value in validation if value is not None]
        numbers = (reference(each.job.config, each.role, each.job.overrides) for each in ordered)
        published = next((number for number in numbers if number is not None), None)
        mean, std = fmean(test), std_of(test)
        latencies = [each.job.latencies[each.role] for each in ordered if each.role in each.job.latencies]
        return cls(
            role=first.role,
            model=first.result.model,
            method=first.result.method,
            option=first.method,
            settings=first.settings,
            parameters=first.result.parameters,
            seeds=[result.seed for result in results],
            keys=[result.key for result in results],
            jobs=[str(each.job.folder) for each in ordered],
            test=test,
            validation=validation,
            test_mean=mean,
            test_std=std,
            validation_mean=fmean(known) if len(known) == len(validation) else None,
            latency_ms=median(latencies) if latencies else None,
            balanced_mean=fmean(balanced) if len(balanced) == len(results) else None,
            balanced_std=std_of(balanced) if len(balanced) == len(results) else None,
            majority=first.result.majority,
            difference=Pairs.of(ordered).difference(),
            published=published,
            standard_errors=published.distance(mean, std, len(test)) if published else None,
        )
