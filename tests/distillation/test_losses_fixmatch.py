"""FixMatch: the formula of Sohn et al. 2020 written a second time, and a training that uses what it finds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdexp.distillation.fixmatch import pseudo_label_loss


def by_hand(weak, strong, threshold):
    """Equation 4: 1/M Σ [max q ≥ τ] · H(argmax q, p)."""
    total = counted = 0.0
    for w, s in zip(weak.tolist(), strong.tolist(), strict=True):
        q = [math.exp(value) / sum(map(math.exp, w)) for value in w]
        if max(q) >= threshold:
            counted += 1
            total += math.log(sum(map(math.exp, s))) - s[q.index(max(q))]
    return total / len(weak), counted / len(weak)


@given(st.integers(1, 12), st.integers(2, 6), st.floats(0, 1), st.integers(0, 99))
def test_the_loss_is_that_of_the_paper(images, classes, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    weak, strong = (3 * torch.randn(images, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    loss, mask = pseudo_label_loss(weak, strong, threshold)
    expected, share = by_hand(weak, strong, threshold)
    assert float(loss) == pytest.approx(expected, abs=1e-9) and float(mask) == pytest.approx(share, abs=1e-9)


def test_no_gradient_reaches_the_weak_view():
    weak, strong = (torch.randn(5, 3, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (0, 1))
    pseudo_label_loss(weak, strong, 0.0)[0].backward()
    assert weak.grad is None and strong.grad.abs().sum() > 0
