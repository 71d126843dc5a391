"""Batches that exchange images, for batch norms that learn their running statistics from the first one alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdexp.network.capture import Outputs


def interleave(batches: Sequence[Tensor]) -> list[Tensor]:
    """Exchanges an equal part of the first batch with each of the others, all of one size; a second time undoes it.

    Source: the authors' code of MixMatch (Berthelot et al. 2019, arXiv 1905.02249). The last parts take what does not divide.
    """
    count, size = len(batches), len(batches[0])
    sizes = [size // count + (part >= count - size % count) for part in range(count)]
    parts = [list(batch.split(sizes)) for batch in batches]
    for number in range(1, count):
        parts[0][number], parts[number][number] = parts[number][number], parts[0][number]
    return [torch.cat(of_batch) for of_batch in parts]


def interleave_outputs(found: Sequence[Outputs]) -> list[Outputs]:
    """The same for the outputs of interleaved batches, which are in their images' first order then."""
    logits = interleave([outputs.logits for outputs in found])
    features = {name: interleave([outputs.features[name] for outputs in found]) for name in found[0].features}
    return [Outputs(own, {name: all_of[at] for name, all_of in features.items()}) for at, own in enumerate(logits)]
