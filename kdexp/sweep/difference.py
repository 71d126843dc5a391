"""Difference of a configuration to its baseline, paired by seed, and its confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from kdexp.sweep.correct_images import correct_images
from kdexp.sweep.observations import Observation
from kdexp.tasks.statistics import (
    correlation,
    image_margin,
    image_variance,
    seed_margin,
    std_of,
    sufficient_n,
    unpaired_width,
)


@dataclass
class Interval:
    """From `low` to `high`, in points. With `sufficient_n` seeds of the same mean and spread it would exclude 0."""

    low: float
    high: float
    sufficient_n: int | None = None

    @property
    def holds_zero(self) -> bool:
        """Whether 0 lies in the interval."""
        return self.low <= 0 <= self.high


@dataclass
class Difference:
    """Test accuracy minus the baseline's under the same seed, in points of accuracy (percent)."""

    seeds: list[int]
    baselines: list[str]
    """Keys of the baselines, by seed."""
    points: list[float]
    mean: float
    std: float | None
    correlation: float | None
    """Correlation of the two accuracies over seeds; None for fewer than three seeds."""
    level: float | None = None
    """Confidence level of each interval, above 0.95 if several hold simultaneously at 95 %; None without intervals."""
    over_seeds: Interval | None = None
    """Student's t interval of the paired differences; None for one seed."""
    over_seeds_and_images: Interval | None = None
    """Interval that also treats test images as a sample; for one seed, over images only. None without intact logits."""
    test_images: int | None = None
    unpaired: float | None = None
    """Width of the interval over seeds without pairing, as a multiple of that with it; None without such an interval."""

    @property
    def intervals(self) -> list[Interval]:
        """The intervals that could be computed."""
        return [interval for interval in (self.over_seeds, self.over_seeds_and_images) if interval]

    @property
    def within_noise(self) -> bool | None:
        """Whether 0 lies in any of the intervals; None for a single seed or without intervals."""
        return any(interval.holds_zero for interval in self.intervals) if self.over_seeds else None


@dataclass
class Pairs:
    """Observations of one configuration that have a baseline with the same seed, sorted by seed."""

    ours: list[Observation]

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> Pairs:
        """Selects the observations that have a baseline."""
        return cls(sorted((each for each in observations if each.baseline), key=lambda each: each.result.seed))

    def difference(self) -> Difference | None:
        """The difference without intervals; None if nothing can be compared."""
        if not self.ours:
            return None
        ours, theirs = self.accuracies()
        points = [a - b for a, b in zip(ours, theirs, strict=True)]
        keys = [each.baseline.key for each in self.ours if each.baseline]
        seeds = [each.result.seed for each in self.ours]
        return Difference(seeds, keys, points, fmean(points), std_of(points), correlation(ours, theirs))

    def accuracies(self) -> tuple[list[float], list[float]]:
        """Accuracies of the configuration and of its baselines by seed, in percent."""
        baselines = [each.baseline for each in self.ours if each.baseline]
        return [100 * each.result.test for each in self.ours], [100 * baseline.test for baseline in baselines]

    def add_intervals(self, difference: Difference, level: float, *, images: bool) -> None:
        """Adds both intervals at that level; the second, which reads stored logits, only if `images`."""
        difference.level = level
        difference.over_seeds = _interval(difference, level, 0.0) if difference.std is not None else None
        difference.unpaired = unpaired_width(*self.accuracies(), level)
        correct = self.correct() if images else None
        if correct is not None and correct.shape[1] > 1:
            difference.test_images = correct.shape[1]
            difference.over_seeds_and_images = _interval(difference, level, 100**2 * image_variance(correct))

    def correct(self) -> np.ndarray | None:
        """Correctness minus the baseline's, per image [seeds, test images]; None if any logits are missing or damaged."""
        rows = []
        for observation in self.ours:
            assert observation.baseline is not None
            ours, theirs = correct_images(observation.result), correct_images(observation.baseline)
            if ours is None or theirs is None:
                return None
            rows.append(ours - theirs)
        return np.stack(rows)


def _interval(difference: Difference, level: float, of_images: float) -> Interval:
    mean, std, n = difference.mean, difference.std, len(difference.points)
    if std is None:
        margin = image_margin(of_images, level)
        return Interval(mean - margin, mean + margin)
    margin = seed_margin(std, n, level, of_images)
    return Interval(mean - margin, mean + margin, sufficient_n(mean, std, level, of_images))
