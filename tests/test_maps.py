import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import few, random

from kdexp.distillation.maps import pool_to_min

sides = st.integers(1, 6)


@few
@given(sides, sides, sides, sides)
def test_both_maps_get_the_smaller_height_and_the_smaller_width(height, width, other_height, other_width):
    ours, theirs = pool_to_min(random(2, 3, height, width), random(2, 5, other_height, other_width, seed=1))
    smaller = min(height, other_height), min(width, other_width)
    assert ours.shape == (2, 3, *smaller)
    assert theirs.shape == (2, 5, *smaller)


def test_maps_of_one_size_are_left_as_they_are():
    maps = random(2, 3, 4, 5), random(2, 6, 4, 5, seed=1)
    assert all(pooled is given for pooled, given in zip(pool_to_min(*maps), maps, strict=True))


@pytest.mark.parametrize("smaller", ["ours", "theirs"])
def test_the_larger_map_is_averaged_over_blocks(smaller):
    small, large = random(2, 3, 2, 3), random(2, 4, 4, 9, seed=1)
    pair = (small, large) if smaller == "ours" else (large, small)
    kept, pooled = pool_to_min(*pair) if smaller == "ours" else reversed(pool_to_min(*pair))
    assert kept is small
    for row in range(2):
        for column in range(3):
            block = large[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            torch.testing.assert_close(pooled[:, :, row, column], block.mean((2, 3)))


def test_pooling_keeps_the_mean_where_the_sizes_divide_and_passes_gradients():
    ours, theirs = random(2, 3, 8, 8).requires_grad_(), random(2, 3, 2, 4)
    pooled, _ = pool_to_min(ours, theirs)
    torch.testing.assert_close(pooled.mean((2, 3)), ours.mean((2, 3)))
    pooled.sum().backward()
    torch.testing.assert_close(ours.grad, torch.full_like(ours, 1 / 8))


@pytest.mark.parametrize(
    ("ours", "theirs", "sizes"),
    [
        ((64,), (16, 8, 8), r"not 64 \(student\) with 16×8×8 \(teacher\)"),
        ((16, 8, 8), (49, 32), r"not 16×8×8 \(student\) with 49×32 \(teacher\)"),
    ],
)
def test_what_is_no_map_is_refused(ours, theirs, sizes):
    with pytest.raises(ValueError, match=sizes):
        pool_to_min(torch.zeros(2, *ours), torch.zeros(2, *theirs))
