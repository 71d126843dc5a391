"""NT-Xent against sums written by hand, and what leaves it as it is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdexp.pretraining.simclr import nt_xent


def embeddings(seed, images=4, size=3):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(images, size, dtype=torch.float64, generator=generator) for _ in range(2))


def by_hand(first, second, temperature):
    """The mean over all 2N embeddings of −log(exp(s(i, j)/τ) / Σ exp(s(i, k)/τ)), k ≠ i, with j the other view of i."""
    vectors = [*first.tolist(), *second.tolist()]
    count, images = len(vectors), len(first)

    def similarity(i, k):
        dot = sum(a * b for a, b in zip(vectors[i], vectors[k], strict=True))
        return dot / math.hypot(*vectors[i]) / math.hypot(*vectors[k]) / temperature

    total = 0.0
    for i in range(count):
        others = math.fsum(math.exp(similarity(i, k)) for k in range(count) if k != i)
        total -= math.log(math.exp(similarity(i, (i + images) % count)) / others)
    return total / count


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("images", [2, 5])
def test_it_equals_the_sums_of_the_paper(images, temperature):
    first, second = embeddings(images, images)
    assert float(nt_xent(first, second, temperature)) == pytest.approx(by_hand(first, second, temperature), abs=1e-9)


def test_its_gradient_is_that_of_the_sums():
    first, second = embeddings(7)
    first.requires_grad_()
    (gradient,) = torch.autograd.grad(nt_xent(first, second, 0.5), first)
    for row, column in ((0, 0), (3, 2)):
        step = torch.zeros_like(first)
        step[row, column] = 1e-6
        numeric = (by_hand(first + step, second, 0.5) - by_hand(first - step, second, 0.5)) / 2e-6
        assert float(gradient[row, column]) == pytest.approx(numeric, abs=1e-8)


TEMPERATURES = st.floats(0.05, 5)
SEEDS = st.integers(0, 2**31)


@given(SEEDS, TEMPERATURES)
def test_the_two_views_may_be_exchanged(seed, temperature):
    first, second = embeddings(seed)
    torch.testing.assert_close(nt_xent(first, second, temperature), nt_xent(second, first, temperature))


@given(SEEDS, TEMPERATURES, st.permutations(range(4)))
def test_the_order_of_the_images_does_not_matter(seed, temperature, order):
    first, second = embeddings(seed)
    torch.testing.assert_close(nt_xent(first[order], second[order], temperature), nt_xent(first, second, temperature))


@given(SEEDS, TEMPERATURES, st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_the_length_of_embeddings_does_not_matter(seed, temperature, lengths):
    first, second = embeddings(seed)
    scaled = first * torch.tensor(lengths, dtype=torch.float64)[:, None]
    torch.testing.assert_close(nt_xent(scaled, second, temperature), nt_xent(first, second, temperature))


@given(TEMPERATURES)
def test_views_that_agree_and_images_at_right_angles_have_a_closed_form(temperature):
    apart = torch.eye(4, dtype=torch.float64)
    exact = math.log(1 + 6 * math.exp(-1 / temperature))
    assert float(nt_xent(apart, apart, temperature)) == pytest.approx(exact, abs=1e-9)
