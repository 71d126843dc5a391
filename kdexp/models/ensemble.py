"""Ensembles, such as teachers to distil into one network (Hinton, Vinyals, Dean 2015, arXiv 1503.02531)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdexp.configuration.arguments import Checked, Count, Temperature
from kdexp.data.shape import Shape
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.build import build_network


class Ensemble(nn.Module, Checked):
    """The mean of its members' logits or probabilities; `image` [N, C, H, W] to logits [N, K]. `members` are network nodes.

    `combine="logits"` is the geometric mean of probabilities, for every temperature. `combine="probabilities"` is the
    arithmetic mean of probabilities at `temperature`, returned as logits at that temperature.
    """

    landmarks = None
    """None: only the members' layers could be landmarks."""

    def __init__(
        self,
        *,
        num_classes: Count,
        in_channels: Count,
        image_size: Count,
        members: list[Mapping[str, Any]],
        combine: Literal["logits", "probabilities"],
        temperature: Temperature,
    ):
        super().__init__()
        if not members:
            raise InvalidArguments([Problem("members", "=[]: must name networks, such as 'teacher.members=[resnet20,vgg8]'")])
        shape = Shape(num_classes, in_channels, image_size)
        self.members = nn.ModuleList(build_network(member, shape) for member in members)
        self.combine = combine
        self.temperature = temperature

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.stack([member(image).float() for member in self.members])
        if self.combine == "logits":
            return logits.mean(0)
        log_p = (logits / self.temperature).log_softmax(2)
        return (log_p.logsumexp(0) - math.log(len(self.members))) * self.temperature
