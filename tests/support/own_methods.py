"""A user's own distillation method, named by `_target_` in tests."""

import torch
from torch import nn

from kdexp.distillation.base import FeatureDistiller


class Remember(FeatureDistiller):
    """Pulls a trained projection of the student's features towards a noisy running mean of the teacher's."""

    label = "memory"

    def setup(self, probe):
        ours, theirs = self.pairs(probe.student, probe.teacher)[0]
        self.project = nn.Linear(ours.flatten(1).shape[1], theirs.flatten(1).shape[1])
        self.register_buffer("memory", torch.zeros(theirs.flatten(1).shape[1]))

    def transfer(self, batch, student, teacher, progress):
        ours, theirs = self.pairs(student, teacher)[0]
        self.memory = 0.9 * self.memory + 0.1 * theirs.flatten(1).mean(0)
        noise = 0.01 * torch.randn_like(self.memory)
        return {"memory": (self.project(ours.flatten(1)) - self.memory + noise).pow(2).mean()}
