"""What a difference over seeds and test images is worth: means, intervals, and how many seeds would settle it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist, stdev

import numpy as np

MANY_SEEDS = 10_000
"""Beyond so many seeds none are counted: nobody trains them."""
ROUNDING = 1e-9
"""Accuracies in percent that differ by less are equal but for rounding."""
_EXACT = 40


@cache
def student_t(level: float, dof: int) -> float:
    """The t that a Student variable of so many degrees of freedom exceeds, either way, with probability 1 − level."""
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
    """The probability of −t to t: a finite sum for whole degrees of freedom (Abramowitz, Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(dof))
    cosine, odd = math.cos(angle), dof % 2
    term, total = cosine if odd else 1.0, 0.0
    for step in range(1 + odd, dof, 2):
        total += term
        term *= cosine**2 * step / (step + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _student_t_expanded(level: float, dof: int) -> float:
    """The same for many degrees of freedom: Fisher's expansion about the normal quantile (Abramowitz, Stegun 1964, 26.7.5)."""
    z = normal(level)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / dof + second / dof**2 + third / dof**3


def normal(level: float) -> float:
    """The z that a standard normal variable exceeds, either way, with probability 1 − level."""
    return NormalDist().inv_cdf((1 + level) / 2)


def std_of(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n−1), or None of a single value."""
    return stdev(values) if len(values) > 1 else None


def correlation(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Pearson's, or None for fewer than three pairs and for a constant side."""
    if len(ours) < 3 or stdev(ours) == 0 or stdev(theirs) == 0:
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def unpaired_width(ours: Sequence[float], theirs: Sequence[float], level: float) -> float | None:
    """How many times as wide Student's interval around the mean difference would be if the n pairs were two groups of n.

    Two groups have the variances of both sides, but 2n−2 degrees of freedom in place of n−1. None where all differences are
    equal, and for fewer than two.
    """
    n, std = len(ours), std_of([a - b for a, b in zip(ours, theirs, strict=True)])
    if std is None or std < ROUNDING:
        return None
    return student_t(level, 2 * n - 2) / student_t(level, n - 1) * math.hypot(stdev(ours), stdev(theirs)) / std


def seed_margin(std: float, n: int, level: float, image_variance: float = 0.0) -> float:
    """Half the width of the interval around a mean over n seeds, n > 1.

    `image_variance` is what the finite test set adds to the mean's variance, however many seeds there are.
    """
    return student_t(level, n - 1) * math.sqrt(std**2 / n + image_variance)


def sufficient_n(mean: float, std: float, level: float, image_variance: float = 0.0) -> int | None:
    """The smallest n > 1 at which the mean would lie outside its interval around 0 if all else stayed the same, or None."""

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
    """What the choice of test images adds to the variance of the mean of per-image differences [seeds, images]; at least 0.

    A difference is taken as the truth + effect of the seed + effect of the image + luck of that image under that seed, all
    random: a two-way analysis of variance with one value per cell. Means over S seeds then vary between images by
    var(image) + var(luck)/S, so the effects of I images add (the variance of these means − var(luck)/S) / I to the variance of
    the grand mean. What luck adds to it, var(luck)/(S·I), is already part of the spread over seeds that `seed_margin` takes.
    A single seed can't tell luck from the effects of images: of one it is the whole variance. Needs two images.
    """
    seeds, images = differences.shape
    of_image = differences.mean(0)
    if seeds == 1:
        return float(of_image.var(ddof=1)) / images
    luck = differences - differences.mean(1, keepdims=True) - of_image + of_image.mean()
    luck_variance = float(np.square(luck).sum()) / ((seeds - 1) * (images - 1))
    return max(0.0, float(of_image.var(ddof=1)) - luck_variance / seeds) / images
