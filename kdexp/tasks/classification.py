"""Metrics of classification: accuracy, likelihood, calibration, agreement."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdexp.tasks.imbalance import imbalance_metrics

TOP5_FROM = 20
"""Smallest number of classes for which top-5 accuracy is reported."""


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts the rows of logits [N, K] that are largest at their label [N], as a tensor on the device."""
    return (logits.argmax(1) == labels).sum()


def metrics(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Computes accuracy (`top1`, and `top5` from 20 classes on), negative log-likelihood in nats, and calibration error.

    If the classes of the labels are imbalanced, also the accuracy of each, and their mean.
    """
    values: dict[str, Any] = {
        "top1": float(correct(logits, labels)) / len(labels),
        "nll": float(F.cross_entropy(logits, labels)),
        "ece": calibration_error(logits, labels),
        **imbalance_metrics(logits, labels),
    }
    if logits.shape[1] >= TOP5_FROM:
        values["top5"] = float((logits.topk(5).indices == labels[:, None]).any(1).float().mean())
    return values


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Computes the expected calibration error over equal bins of confidence (Guo et al. 2017, arXiv 1706.04599)."""
    confidence, predicted = logits.softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, bin_of, (confidence - (predicted == labels).float()).double())
    return float(gap.abs().sum() / len(labels))


def agreement(logits: Tensor, others: Tensor) -> float:
    """Computes the share of images for which two networks' logits [N, K] predict the same class."""
    return float((logits.argmax(1) == others.argmax(1)).float().mean())


def same_answers(logits: Tensor, others: Tensor) -> bool:
    """Whether two networks' logits [N, K] differ by rounding alone."""
    return logits.shape == others.shape and bool((logits - others).abs().max() <= 1e-3 * others.std())


def only_one_right(ours: Tensor, theirs: Tensor, labels: Tensor) -> tuple[int, int]:
    """Counts the images that only the first network's logits [N, K] classify correctly, and those that only the second's do."""
    first, second = ours.argmax(1) == labels, theirs.argmax(1) == labels
    return int((first & ~second).sum()), int((second & ~first).sum())


def chance_of_split(ones: int, others: int) -> float:
    """Computes the probability that a fair coin falls at least as unevenly as ones : others.

    This is the exact two-sided McNemar test of two networks on the images that only one of them has right (McNemar 1947).
    """
    tosses, ways, tail = ones + others, 1, 1
    for k in range(min(ones, others)):
        ways = ways * (tosses - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)
