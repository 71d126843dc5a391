"""Mixed images and sharpened guesses: what methods that mix labelled with unlabelled images share."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.distributions import Beta

from kdexp.configuration.arguments import Range
from kdexp.data.views import folded

Passes = Annotated[int, Range(at_least=1, within=(1, 50))]
"""Unlabelled images for each labelled one, where as many as there are labelled ones are a pass of their own."""
MixPer = Literal["batch", "image"]
"""Whether all images of a batch are mixed with the same share, or each with its own."""


def draw_shares(beta: float, like: Tensor, mix_per: MixPer) -> Tensor:
    """Draws shares [N] from Beta(`beta`, `beta`) for values [N, ...], all the same one if they are for the batch."""
    concentration = torch.full((), beta, dtype=like.dtype, device=like.device)
    count = len(like) if mix_per == "image" else 1
    return Beta(concentration, concentration, validate_args=False).sample((count,)).expand(len(like))


def draw_order(like: Tensor) -> Tensor:
    """Draws a permutation [N] of values [N, ...]."""
    return torch.rand(len(like), device=like.device).argsort()


def mix(values: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """Returns `shares` [N] of values [N, ...] plus the rest of the others."""
    shares = shares.view(-1, *[1] * (values.ndim - 1))
    return shares * values + (1 - shares) * others


def mix_up(images: Tensor, targets: Tensor, beta: float, mix_per: MixPer) -> tuple[Tensor, Tensor]:
    """Mixes each image [N, C, H, W] with another one, and its target [N, K] too; at least one half is its own."""
    shares, order = folded(draw_shares(beta, images, mix_per)), draw_order(images)
    return mix(images, images[order], shares), mix(targets, targets[order], shares)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """Returns p^(1/T), scaled to the sum 1, for probabilities [N, K]; in logs, where it can't underflow."""
    return (probabilities.log() / temperature).softmax(1)


def label_targets(label: Tensor, like: Tensor) -> Tensor:
    """Labels [N] as probabilities [N, K], for as many classes as `like` [M, K] has.

    `F.one_hot` has the host look at the labels, which a recorded step can't.
    """
    return (label[:, None] == torch.arange(like.shape[1], device=label.device)).to(like.dtype)
