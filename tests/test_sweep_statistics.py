"""Intervals and what they rest on, against numbers from tables and by hand."""

import math
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexp.sweep.statistics import (
    MANY_SEEDS,
    bootstrap_variance,
    correlation,
    image_variance,
    normal,
    seed_margin,
    std_of,
    student_t,
    sufficient_n,
)

# Two-sided, from printed tables of Student's distribution.
TABLE = [
    (0.95, {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980}),
    (0.99, {1: 63.657, 2: 9.925, 4: 4.604, 9: 3.250, 40: 2.704, 60: 2.660}),
    (0.999, {2: 31.599, 4: 8.610, 60: 3.460}),
]


@pytest.mark.parametrize(("level", "dof", "t"), [(level, dof, t) for level, row in TABLE for dof, t in row.items()])
def test_student_t_is_that_of_the_tables(level, dof, t):
    assert student_t(level, dof) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999, 0.9999])
def test_student_t_has_no_seam_where_the_expansion_begins(level):
    before, at, after = (student_t(level, dof) for dof in (39, 40, 41))
    assert before > at > after
    assert (at - after) / (before - at) == pytest.approx(1, abs=0.1)


def test_student_t_becomes_normal():
    assert normal(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert student_t(0.95, 10**6) == pytest.approx(normal(0.95), abs=1e-5)


def test_the_margin_by_hand():
    differences = [1.0, 2.0, 3.0]  # mean 2, standard deviation 1
    assert std_of(differences) == 1 and std_of([2.0]) is None
    assert seed_margin(1.0, 3, 0.95) == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert seed_margin(1.0, 3, 0.95, image_variance=1 / 3) == pytest.approx(4.3027 * math.sqrt(2 / 3), abs=1e-4)


def test_the_sufficient_n_by_hand():
    # Mean 1, standard deviation 1: t/√n is 1.242 for n = 5, 1.049 for 6 and 0.925 for 7.
    assert sufficient_n(1.0, 1.0, 0.95) == 7
    assert sufficient_n(-1.0, 1.0, 0.95) == 7
    assert sufficient_n(1.0, 0.0, 0.95) == 2
    assert sufficient_n(0.0, 1.0, 0.95) is None
    # Test images alone have a standard error of 0.6, and 1.96 · 0.6 > 1: no number of seeds is enough.
    assert sufficient_n(1.0, 1.0, 0.95, image_variance=0.36) is None
    assert sufficient_n(1e-9, 1.0, 0.95) is None


@given(st.floats(0.05, 5), st.floats(0.05, 5), st.sampled_from([0.95, 0.99]), st.floats(0, 0.1))
def test_the_sufficient_n_is_the_smallest(mean, std, level, images):
    n = sufficient_n(mean, std, level, images)
    if n is None:
        assert seed_margin(std, MANY_SEEDS, level, images) >= mean
    else:
        assert seed_margin(std, n, level, images) < mean
        assert n == 2 or seed_margin(std, n - 1, level, images) >= mean


@given(st.floats(0.1, 10), st.integers(2, 60), st.floats(0.5, 0.999))
def test_the_margin_shrinks_with_seeds_and_grows_with_level_and_images(std, n, level):
    margin = seed_margin(std, n, level)
    assert seed_margin(std, n + 1, level) < margin
    assert seed_margin(std, n, (1 + level) / 2) > margin
    assert seed_margin(std, n, level, 0.01) > margin
    assert seed_margin(2 * std, n, level) == pytest.approx(2 * margin)


def test_the_correlation_by_hand():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert correlation([1, 2], [1, 2]) is None, "two points always lie on a line"
    assert correlation([1, 2, 3], [5, 5, 5]) is None


def test_the_bootstrap_of_one_seed_is_the_binomial_variance():
    differences = np.repeat([[1, 0, -1]], 400, axis=0).reshape(1, -1)
    assert bootstrap_variance(differences) == pytest.approx(differences.var() / differences.size, rel=0.1)
    assert image_variance(differences) == bootstrap_variance(differences)


def test_seeds_that_shift_all_images_alike_have_the_variance_of_their_mean():
    shifts = np.array([1, 0, 1, -1, 0])
    differences = np.repeat(shifts[:, None], 300, axis=1)
    assert bootstrap_variance(differences) == pytest.approx(stdev(shifts.tolist()) ** 2 / 5, rel=0.1)
    assert image_variance(differences) == pytest.approx(0, abs=0.02)


def test_images_alike_under_all_seeds_count_once():
    row = np.random.default_rng(0).integers(-1, 2, 1000)
    differences = np.tile(row, (10, 1))
    assert bootstrap_variance(differences) == pytest.approx(row.var() / 1000, rel=0.1)
    assert image_variance(differences) == pytest.approx(row.var() / 1000, rel=0.1)


def test_luck_of_single_images_under_single_seeds_is_no_matter_of_the_test_set():
    differences = np.random.default_rng(0).integers(-1, 2, (10, 1000))
    alone = differences.var() / differences.size
    assert bootstrap_variance(differences) == pytest.approx(3 * alone, rel=0.25), "resampling both counts it three times"
    assert image_variance(differences) < alone


def test_the_bootstrap_is_the_same_every_time_and_quick():
    differences = np.random.default_rng(1).choice([-1, 0, 1], p=[0.04, 0.92, 0.04], size=(10, 10_000))
    assert image_variance(differences) == image_variance(differences)
    assert image_variance(-differences) == pytest.approx(image_variance(differences), rel=0.2)


def image_variance_by_analysis(sample):
    """The same from a two-way analysis of variance, without resampling."""
    seeds, images = sample.shape
    luck = sample - sample.mean(1, keepdims=True) - sample.mean(0) + sample.mean()
    return max(0.0, sample.mean(0).var(ddof=1) / images - np.square(luck).sum() / (seeds - 1) / (images - 1) / seeds / images)


def sampled(draws):
    """Differences under 4 seeds on 250 images, the truth being 0."""
    return draws.normal(0, 0.01, (4, 1)) + draws.normal(0, 0.3, 250) + draws.normal(0, 0.2, (4, 250))


def test_the_bootstrap_finds_what_an_analysis_of_variance_finds():
    sample = sampled(np.random.default_rng(2))
    assert image_variance(sample) == pytest.approx(image_variance_by_analysis(sample), rel=0.15)


def test_the_interval_over_seeds_and_images_holds_the_truth_about_as_often_as_it_says():
    draws, held = np.random.default_rng(3), {"seeds": 0, "both": 0}
    for _ in range(300):
        sample = sampled(draws)
        of_seeds = stdev(sample.mean(1).tolist())
        held["seeds"] += abs(sample.mean()) < seed_margin(of_seeds, 4, 0.95)
        held["both"] += abs(sample.mean()) < seed_margin(of_seeds, 4, 0.95, image_variance_by_analysis(sample))
    assert held["seeds"] < 0.85 * 300 and held["both"] > 0.93 * 300
