import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import START, WEIGHTS, batch_of, few, own_term, probe, random
from torch import nn

from kdexp.distillation.at import AttentionTransfer
from kdexp.distillation.fitnet import FitNet
from kdexp.distillation.maps import pool_to_min
from kdexp.distillation.sp import SimilarityPreserving
from kdexp.distillation.vid import VariationalInformation
from kdexp.network.capture import Outputs

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
def test_features_that_are_not_maps_are_refused(ours, theirs, sizes):
    with pytest.raises(ValueError, match=sizes):
        pool_to_min(torch.zeros(2, *ours), torch.zeros(2, *theirs))


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        (AttentionTransfer, {"mode": "code", "power": 2.0}),
        (AttentionTransfer, {"mode": "paper", "power": 2.0}),
        (FitNet, {}),
        (SimilarityPreserving, {}),
        (VariationalInformation, {}),
    ],
)
def test_terms_are_summed_over_pairs_and_weighted(method, knobs):
    knobs = WEIGHTS | {"weight": 3.0, "student_layers": ["a", "b"], "teacher_layers": ["c", "d"]} | knobs
    made = method(**knobs)
    made.layers(nn.Identity(), nn.Identity())
    student = Outputs(random(4, 3), {"a": random(4, 2, 4, 4, seed=1), "b": random(4, 3, 2, 2, seed=2)})
    teacher = Outputs(random(4, 3), {"c": random(4, 5, 4, 4, seed=3), "d": random(4, 6, 4, 4, seed=4)})
    made.setup(probe(student, teacher))
    made.double()
    parts = []
    for place in (0, 1):
        alone = copy.deepcopy(made)
        alone._pairs = [made._pairs[place]]
        for name, modules in made.named_children():
            setattr(alone, name, nn.ModuleList([modules[place]]))
        parts.append(float(own_term(alone, student, teacher)))
    (_, term) = made.losses(batch_of([0] * 4), student, teacher, START).values()
    assert min(map(abs, parts)) > 1e-4
    assert float(term) == pytest.approx(3.0 * sum(parts), rel=1e-9)
