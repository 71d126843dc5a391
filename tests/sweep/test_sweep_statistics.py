"""Statistics behind the intervals, against tables and values computed by hand."""

import math
from statistics import fmean, stdev, variance

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdexp.tasks.statistics import (
    MANY_SEEDS,
    correlation,
    image_variance,
    normal,
    seed_margin,
    std_of,
    student_t,
    sufficient_n,
    unpaired_width,
)

# Two-sided, from printed tables of Student's distribution.
TABLE = [
    (0.95, {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 40: 2.021, 60: 2.000, 120: 1.980}),
    (0.99, {1: 63.657, 2: 9.925, 4: 4.604, 9: 3.250, 40: 2.704, 60: 2.660}),
    (0.999, {2: 31.599, 4: 8.610, 60: 3.460}),
]


@pytest.mark.parametrize(("level", "dof", "t"), [(level, dof, t) for level, row in TABLE for dof, t in row.items()])
def test_student_t_agrees_with_tables(level, dof, t):
    assert student_t(level, dof) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999, 0.9999])
def test_student_t_is_continuous_where_the_expansion_begins(level):
    before, at, after = (student_t(level, dof) for dof in (39, 40, 41))
    assert before > at > after
    assert (at - after) / (before - at) == pytest.approx(1, abs=0.1)


def test_student_t_becomes_normal():
    assert normal(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert student_t(0.95, 10**6) == pytest.approx(normal(0.95), abs=1e-5)


def test_the_margin_computed_by_hand():
    differences = [1.0, 2.0, 3.0]  # mean 2, standard deviation 1
    assert std_of(differences) == 1 and std_of([2.0]) is None
    assert seed_margin(1.0, 3, 0.95) == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert seed_margin(1.0, 3, 0.95, image_variance=1 / 3) == pytest.approx(4.3027 * math.sqrt(2 / 3), abs=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs", "width"),
    [
        # Differences 0.1, 0.9, 0.4 (standard deviation 0.4041); variances 0.28 and 0.02333; t 2.776 with 4, 4.303 with 2.
        ([70, 71, 70.2], [69.9, 70.1, 69.8], 2.7764 / 4.3027 * math.sqrt(0.28 + 0.023333) / 0.404145),
        ([1, 2], [0, 4], 4.3027 / 12.7062 * math.sqrt(0.5 + 8) / math.sqrt(4.5)),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], 2.3060 / 2.7764 * math.sqrt(2.5 + 3.7) / math.sqrt(0.2)),
    ],
)
def test_the_effect_of_pairing_computed_by_hand(ours, theirs, width):
    assert unpaired_width(ours, theirs, 0.95) == pytest.approx(width, rel=1e-4)
    assert unpaired_width(theirs, ours, 0.95) == pytest.approx(width, rel=1e-4)


def test_the_effect_of_pairing_is_unknown_if_all_differences_are_equal():
    assert unpaired_width([57.0, 58.1], [56.0, 57.1], 0.95) is None, "equal but for rounding"
    assert unpaired_width([1.0], [2.0], 0.95) is None


@given(st.integers(2, 12), st.floats(0.5, 0.999))
def test_useless_pairing_costs_degrees_of_freedom(n, level):
    # The two sides are uncorrelated: a column up and down, and one of pairs of equal values.
    ours, theirs = [0.0, 1.0, 0.0, 1.0] * n, [0.0, 0.0, 1.0, 1.0] * n
    width = unpaired_width(ours, theirs, level)
    assert width == pytest.approx(student_t(level, 8 * n - 2) / student_t(level, 4 * n - 1)) and width < 1


def test_the_sufficient_n_computed_by_hand():
    # Mean 1, standard deviation 1: t/√n is 1.242 for n = 5, 1.049 for 6 and 0.925 for 7.
    assert sufficient_n(1.0, 1.0, 0.95) == 7
    assert sufficient_n(-1.0, 1.0, 0.95) == 7
    assert sufficient_n(1.0, 0.0, 0.95) == 2
    assert sufficient_n(0.0, 1.0, 0.95) is None
    # Test images alone have a standard error of 0.6, and 1.96 · 0.6 > 1: no number of seeds is enough.
    assert sufficient_n(1.0, 1.0, 0.95, image_variance=0.36) is None
    assert sufficient_n(1e-9, 1.0, 0.95) is None


@pytest.mark.slow
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


def test_the_correlation_computed_by_hand():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert correlation([1, 2], [1, 2]) is None, "two points always lie on a line"
    assert correlation([1, 2, 3], [5, 5, 5]) is None


def test_with_one_seed_the_image_variance_is_that_of_the_mean():
    row = [1, 0, 0, -1, 1, 0]
    assert image_variance(np.array([row])) == pytest.approx(variance(row) / 6)


def test_the_image_variance_computed_by_hand():
    # Images right under both seeds, wrong under both, and of either kind that is right under one of them.
    pairs = [(1, 1)] * 400 + [(-1, -1)] * 400 + [(1, -1)] * 100 + [(-1, 1)] * 100
    # Image means: 800 of ±1 and 200 of 0, variance 800/999. Luck: 200 images with ±1 under each seed, 400/999.
    assert image_variance(np.array(pairs).T) == pytest.approx((800 / 999 - 400 / 999 / 2) / 1000)


def test_residuals_and_image_effects_of_any_size_computed_by_hand():
    # Of 3 seeds and 2 images: image means 2 and 0, variance 2; luck is +1, −1, 0 on the first, the opposite on the second,
    # 4 in all on 2·1 degrees of freedom.
    differences = np.array([[3, -1], [1, 1], [2, 0]])
    assert image_variance(differences) == pytest.approx((2 - 2 / 3) / 2)


def test_seed_effects_do_not_add_to_the_image_variance():
    differences = np.repeat(np.array([1, 0, 1, -1, 0])[:, None], 300, axis=1)
    assert image_variance(differences) == pytest.approx(0, abs=1e-15)


def test_images_with_equal_differences_for_all_seeds_count_once():
    row = np.random.default_rng(0).integers(-1, 2, 1000)
    assert image_variance(np.tile(row, (10, 1))) == pytest.approx(row.var(ddof=1) / 1000)


def test_residuals_alone_give_no_image_variance():
    found = [image_variance(np.random.default_rng(seed).integers(-1, 2, (10, 1000))) for seed in range(20)]
    assert min(found) == 0 and max(found) < 0.1 * (2 / 3) / 1000


def by_mean_squares(rows):
    """The image variance from the mean squares of images and residuals."""
    seeds, images = len(rows), len(rows[0])
    of_seed = [fmean(row) for row in rows]
    of_image = [fmean(column) for column in zip(*rows, strict=True)]
    grand = fmean(of_seed)
    between = seeds * sum((mean - grand) ** 2 for mean in of_image) / (images - 1)
    luck = sum((rows[s][i] - of_seed[s] - of_image[i] + grand) ** 2 for s in range(seeds) for i in range(images))
    return max(0.0, between - luck / (seeds - 1) / (images - 1)) / seeds / images


@pytest.mark.slow
@given(st.integers(2, 5).flatmap(lambda s: st.lists(st.lists(st.integers(-1, 1), min_size=s, max_size=s), min_size=2)))
def test_the_image_variance_is_that_of_an_analysis_of_variance(columns):
    rows = [list(row) for row in zip(*columns, strict=True)]
    assert image_variance(np.array(rows)) == pytest.approx(by_mean_squares(rows), abs=1e-12)
    assert image_variance(-np.array(rows, dtype=np.int8)) == pytest.approx(by_mean_squares(rows), abs=1e-12)


def sampled(draws, seeds=4):
    """Differences on 250 images with true mean 0."""
    return draws.normal(0, 0.01, (seeds, 1)) + draws.normal(0, 0.3, 250) + draws.normal(0, 0.2, (seeds, 250))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_image_variance_is_right_on_average(seeds):
    draws = np.random.default_rng(seeds)
    found = np.array([image_variance(sampled(draws, seeds)) for _ in range(200)])
    assert abs(found.mean() - 0.3**2 / 250) < 3 * found.std() / math.sqrt(200)
    assert found.std() / math.sqrt(200) < 0.01 * 0.3**2 / 250


def test_both_parts_together_are_the_variance_of_the_mean():
    draws = np.random.default_rng(10)
    samples = [sampled(draws, 2) for _ in range(1500)]
    expected = np.mean([sample.mean(1).var(ddof=1) / 2 + image_variance(sample) for sample in samples])
    assert np.var([sample.mean() for sample in samples], ddof=1) == pytest.approx(expected, rel=0.11)  # 3·√(2/1500)


def test_the_interval_over_seeds_and_images_has_its_nominal_coverage():
    draws, held = np.random.default_rng(3), {"seeds": 0, "both": 0}
    for _ in range(300):
        sample = sampled(draws)
        of_seeds = stdev(sample.mean(1).tolist())
        held["seeds"] += abs(sample.mean()) < seed_margin(of_seeds, 4, 0.95)
        held["both"] += abs(sample.mean()) < seed_margin(of_seeds, 4, 0.95, image_variance(sample))
    assert held["seeds"] < 0.85 * 300 and held["both"] > 0.93 * 300
