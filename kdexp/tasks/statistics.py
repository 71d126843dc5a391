"""Statistics of differences over seeds and test images: intervals, and the number of seeds that would suffice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist, stdev

import numpy as np

MANY_SEEDS = 10_000
"""Largest number of seeds that `sufficient_n` considers."""
ROUNDING = 1e-9
"""Smaller differences between accuracies in percent are rounding errors."""
_EXACT = 40


@cache
def student_t(level: float, dof: int) -> float:
    """Two-sided critical value of Student's t: |t| exceeds it with probability 1 − level."""
    if dof > _EXACT:
        return _student_t_expanded(level, dof)
    low, high = 0.0, 1.0
    while _student_t_within(high, dof) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_within(middle, dof) < level else (low, middle)
    return high


def _student_t_within(t: float, dof: int) -> float:
    """Probability of [−t, t], a finite sum for integer degrees of freedom (Abramowitz, Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(dof))
    cosine, odd = math.cos(angle), dof % 2
    term, total = cosine if odd else 1.0, 0.0
    for step in range(1 + odd, dof, 2):
        total += term
        term *= cosine**2 * step / (step + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _student_t_expanded(level: float, dof: int) -> float:
    """`student_t` for many degrees of freedom: Fisher's expansion about the normal quantile (Abramowitz, Stegun, 26.7.5)."""
    z = normal(level)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / dof + second / dof**2 + third / dof**3


def normal(level: float) -> float:
    """Two-sided critical value of the standard normal distribution: |z| exceeds it with probability 1 − level."""
    return NormalDist().inv_cdf((1 + level) / 2)


def std_of(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n−1), or None for a single value."""
    return stdev(values) if len(values) > 1 else None


def correlation(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Pearson's correlation, or None for fewer than three pairs or if one side is constant."""
    if len(ours) < 3 or stdev(ours) == 0 or stdev(theirs) == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def unpaired_width(ours: Sequence[float], theirs: Sequence[float], level: float) -> float | None:
    """Width of Student's interval for two independent groups of n, as a multiple of that for the n pairs.

    Two groups add the variances of both sides, but have 2n−2 degrees of freedom instead of n−1. None if all differences are
    equal, and for fewer than two pairs.
    """
    n, std = len(ours), std_of([a - b for a, b in zip(ours, theirs, strict=True)])
    if std is None or std < ROUNDING:
        return None
    return student_t(level, 2 * n - 2) / student_t(level, n - 1) * math.hypot(stdev(ours), stdev(theirs)) / std


def seed_margin(std: float, n: int, level: float, image_variance: float = 0.0) -> float:
    """Half the width of the interval around a mean over n seeds, n > 1.

    `image_variance` is the part of the mean's variance that comes from the finite test set, for any number of seeds.
    """
    return student_t(level, n - 1) * math.sqrt(std**2 / n + image_variance)


def image_margin(image_variance: float, level: float) -> float:
    """Half the width of the interval around the mean of one seed, over test images alone."""
    return normal(level) * math.sqrt(image_variance)


def sufficient_n(mean: float, std: float, level: float, image_variance: float = 0.0) -> int | None:
    """The smallest n > 1 for which the interval would exclude 0 with the same mean and std, or None."""

    def enough(n: int) -> bool:
        return seed_margin(std, n, level, image_variance) < abs(mean)

    return _smallest(enough, 2, MANY_SEEDS)


def _smallest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def image_variance(differences: np.ndarray) -> float:
    """Variance that the choice of test images adds to the mean of per-image differences [seeds, images]; at least 0.

    Two-way analysis of variance with one value per cell: difference = mean + seed effect + image effect + residual, all random.
    Means over S seeds vary between images by var(image) + var(residual)/S, so the effects of I images add
    (variance of these means − var(residual)/S) / I to the variance of the grand mean. The contribution of residuals,
    var(residual)/(S·I), is already in the spread over seeds that `seed_margin` takes. A single seed can't separate residuals
    from image effects: then the whole variance is returned. Needs two images.
    """
    seeds, images = differences.shape
    of_image = differences.mean(0)
    if seeds == 1:
        return float(of_image.var(ddof=1)) / images
    residual = differences - differences.mean(1, keepdims=True) - of_image + of_image.mean()
    residual_variance = float(np.square(residual).sum()) / ((seeds - 1) * (images - 1))
    return max(0.0, float(of_image.var(ddof=1)) - residual_variance / seeds) / images
