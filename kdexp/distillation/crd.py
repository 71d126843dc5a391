"""CRD: contrastive representation distillation (Tian, Krishnan, Isola 2020, arXiv 1910.10699)."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Fraction, Range, Temperature
from kdexp.distillation.base import FeatureDistiller


class Side(nn.Module):
    """One network's embedding to unit vectors [N, `size`], and a memory bank with one vector for each of all `images`.

    `log_z` is the log of the normalising constant Z of this side's scores, -inf until the first batch.
    """

    memory: Tensor
    log_z: Tensor

    def __init__(self, width: int, size: int, images: int):
        super().__init__()
        self.embed = nn.Linear(width, size)
        bound = math.sqrt(3 / size)  # vectors of length 1 on average
        self.register_buffer("memory", torch.empty(images, size).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.tensor(-math.inf))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.embed(features.flatten(1)), dim=1)

    def log_ratios(self, scores: Tensor) -> Tensor:
        """Returns log(exp(scores) / Z) for scores [N, 1+m]. The first batch sets Z so that the mean ratio is 1 / images."""
        log_mean = scores.detach().flatten().logsumexp(0) - math.log(scores.numel())
        measured = log_mean + math.log(len(self.memory))
        self.log_z = torch.where(self.log_z.isinf(), measured, self.log_z)
        return scores - self.log_z

    @torch.no_grad()
    def remember(self, index: Tensor, vectors: Tensor, momentum: float) -> None:
        """Moves the stored vectors of the images `index` [N] towards `vectors`; not in place: gradients need the old ones."""
        moved = F.normalize(momentum * self.memory[index] + (1 - momentum) * vectors, dim=1)
        self.memory = self.memory.index_copy(0, index, moved)


class Sampler(nn.Module):
    """Samples images of the same class, or of other classes, as rows of the training split."""

    order: Tensor
    sizes: Tensor
    starts: Tensor

    def __init__(self, labels: Tensor, classes: int):
        super().__init__()
        sizes = labels.bincount(minlength=classes)
        derived = {"order": labels.argsort(stable=True), "sizes": sizes, "starts": sizes.cumsum(0) - sizes}
        for name, value in derived.items():
            self.register_buffer(name, value, persistent=False)
        self.fewest, self.most = len(labels) - int(sizes.max()), len(labels) - int(sizes.min())

    def same(self, label: Tensor) -> Tensor:
        """Samples one image [N] from each of the classes `label` [N]."""
        return self.order[self.starts[label] + self._repeating(self.sizes[label], 1)[:, 0]]

    def others(self, label: Tensor, number: int) -> Tensor:
        """Samples images [N, `number`] of other classes than `label` [N], without repetition in a row if there are enough."""
        start, size = self.starts[label, None], self.sizes[label, None]
        position = self._positions(len(self.order) - self.sizes[label], number)
        return self.order[position + size * (position >= start)]  # skips the class itself, which is contiguous in `order`

    def _positions(self, available: Tensor, number: int) -> Tensor:
        if number > self.most:
            return self._repeating(available, number)
        keys = torch.rand(len(available), self.most, device=available.device)
        beyond = torch.arange(self.most, device=available.device) >= available[:, None]
        distinct = keys.masked_fill_(beyond, -1.0).topk(number, sorted=False).indices
        if number <= self.fewest:
            return distinct
        return torch.where((available >= number)[:, None], distinct, self._repeating(available, number))

    def _repeating(self, available: Tensor, number: int) -> Tensor:
        positions = torch.rand(len(available), number, device=available.device) * available[:, None]
        return torch.minimum(positions.long(), available[:, None] - 1)  # the product may round up


def contrastive_loss(log_ratios: Tensor, images: int) -> Tensor:
    """Noise-contrastive estimation loss (Gutmann and Hyvärinen 2010) of log-ratios [N, 1+m], the positive first; batch mean.

    With ratios o: -log(o₀ / (o₀ + m/images)) - Σ log((m/images) / (oⱼ + m/images)). The authors' code adds 1e-7 to each
    denominator; computed in logs, none is needed.
    """
    log_noise = math.log((log_ratios.shape[1] - 1) / images)
    positive, negative = log_ratios[:, 0], log_ratios[:, 1:]
    return (F.softplus(log_noise - positive) + F.softplus(negative - log_noise).sum(1)).mean()


class CRD(FeatureDistiller):
    """Each network's embedding must find its image among `nce_k` of other classes in the other network's memory bank, summed.

    The positive is the image itself (`mode=exact`) or a random one of its class (`relaxed`). Memory banks and normalising
    constants are stored with the weights. Scoring a whole bank is faster than gathering only the sampled vectors.
    """

    label = "CRD"
    capturable = True
    reads_labels = True
    features_only = True
    landmarks = ("pooled",)

    def __init__(
        self,
        *,
        mode: Literal["exact", "relaxed"],
        nce_k: Annotated[int, Range(at_least=1, within=(1, 2**20))],
        tau: Temperature,
        momentum: Fraction,
        embedding: Annotated[int, Range(at_least=1, within=(1, 2**14))],
        **shared,
    ):
        super().__init__(**shared)
        self.mode = mode
        self.nce_k = nce_k
        self.tau = tau
        self.momentum = momentum
        self.embedding = embedding

    def setup(self, probe):
        widths = (features[0].numel() for features in self.only_pair(probe.student, probe.teacher))
        self.student, self.teacher = (Side(width, self.embedding, len(probe.labels)) for width in widths)
        self.sampler = Sampler(probe.labels, probe.shape.num_classes)

    def transfer(self, batch, student, teacher, progress):
        ours, theirs = self.only_pair(student, teacher)
        ours, theirs = self.student(ours), self.teacher(theirs)
        positive = batch.index if self.mode == "exact" else self.sampler.same(batch.label)
        index = torch.cat([positive[:, None], self.sampler.others(batch.label, self.nce_k)], dim=1)
        loss = self._contrast(self.student, ours, self.teacher.memory, index)
        loss = loss + self._contrast(self.teacher, theirs, self.student.memory, index)
        self.student.remember(batch.index, ours, self.momentum)
        self.teacher.remember(batch.index, theirs, self.momentum)
        return {"crd": loss}

    def _contrast(self, side: Side, vectors: Tensor, memory: Tensor, index: Tensor) -> Tensor:
        scores = (vectors @ memory.T).gather(1, index) / self.tau
        return contrastive_loss(side.log_ratios(scores), len(memory))
