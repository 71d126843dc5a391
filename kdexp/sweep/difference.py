"""How far a configuration is from its baseline, paired by seed, and what of that may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from kdexp.sweep.images import right_answers
from kdexp.sweep.observations import Observation
from kdexp.sweep.statistics import (
    correlation,
    image_variance,
    normal,
    seed_margin,
    std_of,
    sufficient_n,
    unpaired_width,
)


@dataclass
class Interval:
    """From `low` to `high`, in points; `sufficient_n` seeds would put 0 outside if the mean and its spread stayed the same."""

    low: float
    high: float
    sufficient_n: int | None = None

    @property
    def holds_zero(self) -> bool:
        """Whether no difference at all is among what it allows."""
        return self.low <= 0 <= self.high


@dataclass
class Difference:
    """Test accuracy minus the baseline's under the same seed, in points of accuracy (percent)."""

    seeds: list[int]
    baselines: list[str]
    """The keys of what it is compared with, by seed."""
    points: list[float]
    mean: float
    std: float | None
    correlation: float | None
    """Of the two accuracies over seeds; None for fewer than three."""
    level: float | None = None
    """Of each interval; above 0.95 where several hold together with 95 %. None if this row was given no interval."""
    over_seeds: Interval | None = None
    """Student's t over the paired differences; None for one seed."""
    over_seeds_and_images: Interval | None = None
    """The test images being a sample too; for one seed of the images alone. None without intact logits."""
    test_images: int | None = None
    unpaired: float | None = None
    """How many times as wide the interval over seeds would be without pairing; None without such an interval."""

    @property
    def intervals(self) -> list[Interval]:
        """Those that there are."""
        return [interval for interval in (self.over_seeds, self.over_seeds_and_images) if interval]

    @property
    def within_noise(self) -> bool | None:
        """Whether 0 lies in any of the intervals; None for a single seed, which can't tell, and without intervals."""
        return any(interval.holds_zero for interval in self.intervals) if self.over_seeds else None


@dataclass
class Pairs:
    """The observations of one configuration that have a baseline of the same seed, by seed."""

    ours: list[Observation]

    @classmethod
    def of(cls, observations: Sequence[Observation]) -> Pairs:
        """Those of the observations that can be compared."""
        return cls(sorted((one for one in observations if one.baseline), key=lambda one: one.result.seed))

    def difference(self) -> Difference | None:
        """Without intervals; None if nothing can be compared."""
        if not self.ours:
            return None
        ours, theirs = self.accuracies()
        points = [a - b for a, b in zip(ours, theirs, strict=True)]
        keys = [one.baseline.key for one in self.ours if one.baseline]
        seeds = [one.result.seed for one in self.ours]
        return Difference(seeds, keys, points, fmean(points), std_of(points), correlation(ours, theirs))

    def accuracies(self) -> tuple[list[float], list[float]]:
        """Its own and the baselines', by seed, in percent."""
        baselines = [one.baseline for one in self.ours if one.baseline]
        return [100 * one.result.test for one in self.ours], [100 * baseline.test for baseline in baselines]

    def add_intervals(self, difference: Difference, level: float, *, images: bool) -> None:
        """Fills in both intervals at that level, the second only if `images`, since it reads the stored logits."""
        difference.level = level
        difference.over_seeds = _interval(difference, level, 0.0) if difference.std is not None else None
        difference.unpaired = unpaired_width(*self.accuracies(), level)
        answers = self.answers() if images else None
        if answers is not None and answers.shape[1] > 1:
            difference.test_images = answers.shape[1]
            difference.over_seeds_and_images = _interval(difference, level, 100**2 * image_variance(answers))

    def answers(self) -> np.ndarray | None:
        """Right answers minus the baseline's [seeds, test images]; None if any logits are missing or damaged."""
        rows = []
        for one in self.ours:
            assert one.baseline is not None
            ours, theirs = right_answers(one.result), right_answers(one.baseline)
            if ours is None or theirs is None:
                return None
            rows.append(ours - theirs)
        return np.stack(rows)


def _interval(difference: Difference, level: float, of_images: float) -> Interval:
    mean, std, n = difference.mean, difference.std, len(difference.points)
    if std is None:
        margin = normal(level) * math.sqrt(of_images)
        return Interval(mean - margin, mean + margin)
    margin = seed_margin(std, n, level, of_images)
    return Interval(mean - margin, mean + margin, sufficient_n(mean, std, level, of_images))
