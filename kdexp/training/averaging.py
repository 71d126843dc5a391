"""The moving average of a network's weights: how it is chosen, and the average itself."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Range


class Averaging(Checked):
    """The base of what `averaging` chooses."""

    def of(self, network: nn.Module) -> MovingAverage | None:
        """An average that starts from the network's weights; None if the network itself is evaluated and deployed."""
        raise NotImplementedError

    def describe(self) -> str:
        """The average as the table's remarks name it, an empty string without one."""
        return ""


class NoAveraging(Averaging):
    """The weights after the last step are what is evaluated and deployed."""

    def __init__(self):
        pass

    def of(self, network):
        return None


@dataclass(frozen=True, kw_only=True)
class ExponentialAveraging(Averaging):
    """After each step, average ← d·average + (1 − d)·weights.

    d is `decay`; with `warm_up` it is min(decay, (1 + t) / (10 + t)) after t earlier steps, so that the random initial weights
    are soon forgotten.
    """

    decay: Annotated[float, Range(at_least=0, below=1)]
    warm_up: bool

    def of(self, network):
        return MovingAverage(network, self.decay, warm_up=self.warm_up)

    def describe(self):
        return f"EMA, decay {self.decay:g}"


class MovingAverage(nn.Module):
    """A copy of a network whose trainable parameters follow that network's as a moving average.

    Its buffers, such as running statistics, and its frozen parameters are those of the network. It must be made before anything
    holds on to the network by hooks. All its state is on the network's device, so that `update` can be recorded.
    """

    steps: Tensor
    """How many updates there were."""

    def __init__(self, network: nn.Module, decay: float, *, warm_up: bool):
        super().__init__()
        self.decay, self.warm_up = decay, warm_up
        self.network = deepcopy(network).requires_grad_(False)
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        self._averaged = [(average, weights) for average, weights in pairs if weights.requires_grad]
        self._modules_of_both = list(zip(self.network.modules(), network.modules(), strict=True))
        self._buffers_of_both = [
            (ours, theirs, name)
            for ours, theirs in self._modules_of_both
            for name, value in ours._buffers.items()
            if value is not None
        ]
        device = next((weights.device for weights in network.parameters()), None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=device))
        self._least = torch.tensor(1 - decay, device=device)

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the network's weights after a step, and its buffers as they are."""
        share = self._share()
        averages, weights = (list(side) for side in zip(*self._averaged, strict=True))
        torch._foreach_lerp_(averages, weights, [share.to(average.dtype) for average in averages])
        if self._buffers_of_both:  # looked up each time: a network may replace its buffers
            own: list[Any] = [ours._buffers[name] for ours, _, name in self._buffers_of_both]
            current: list[Any] = [theirs._buffers[name] for _, theirs, name in self._buffers_of_both]
            torch._foreach_copy_(own, current)
        self.steps += 1

    def _share(self) -> Tensor:
        """The share of the new weights, 1 − d."""
        return torch.maximum(self._least, 9 / (10 + self.steps)) if self.warm_up else self._least

    def follow_modes(self) -> None:
        """Switches each module to training or evaluation mode as the network's."""
        for ours, theirs in self._modules_of_both:
            ours.training = theirs.training
