"""Batch norms that see the whole batch where several ranks have a part of it each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdexp.device import ranks


class _OfTheWholeBatch(nn.modules.batchnorm._BatchNorm):
    """In training, normalises by mean and variance over the images of all ranks, as one process would."""

    def forward(self, image: Tensor) -> Tensor:
        """Normalises features [N, C, ...]."""
        if not self.training or ranks.count() == 1:
            return super().forward(image)
        self._check_input_dim(image)
        axes = [axis for axis in range(image.dim()) if axis != 1]
        shape = [1, -1, *[1] * (image.dim() - 2)]
        values = image.float()
        size = values.new_tensor([values.numel() / values.shape[1]])
        sums = ranks.summed(torch.cat([values.sum(axes), size]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        variance = ranks.summed(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach(), count)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(image.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance * (count / (count - 1)), factor)


class WholeBatchNorm1d(_OfTheWholeBatch, nn.BatchNorm1d):
    """`BatchNorm1d` of the whole batch."""


class WholeBatchNorm2d(_OfTheWholeBatch, nn.BatchNorm2d):
    """`BatchNorm2d` of the whole batch."""


SHARED: dict[type[nn.Module], type[nn.Module]] = {nn.BatchNorm1d: WholeBatchNorm1d, nn.BatchNorm2d: WholeBatchNorm2d}


def share_norms(*networks: nn.Module) -> None:
    """Turns the batch norms of networks into those of the whole batch; names and values of their tensors stay."""
    for network in networks:
        for module in network.modules():
            if type(module) in SHARED:
                module.__class__ = SHARED[type(module)]
