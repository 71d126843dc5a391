"""Distillation methods of a user's own, named by `_target_` in tests."""

import torch
from torch import nn

from kdexp.distillation.base import FeatureDistiller


class Remember(FeatureDistiller):
    """Pulls trained projections of the student towards a memory of the teacher's features: a module, a buffer, noise."""

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
