"""The running statistics of batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def kept_statistics(*networks: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training use the statistics of their batch without changing the running ones.

    Only their counter of batches goes on, which PyTorch reads where a norm's momentum is None alone.
    """
    norms = [module for network in networks for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
