"""SimCLR: contrastive learning of representations (Chen et al. 2020, arXiv 2002.05709)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Width
from kdexp.data.views import STRONG, STRONG2, WEAK
from kdexp.network.landmarks import has_landmarks, landmarks_of
from kdexp.pretraining.base import Pretraining


def similarities(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Returns the cosine similarities [2N, 2N] of N images' embeddings [N, D] in two views, divided by the temperature.

    Those of an embedding with itself are -inf. Also returns the column [2N] of each row's other view.
    """
    embeddings = F.normalize(torch.cat([first, second]), dim=1)
    itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    scores = (embeddings @ embeddings.T / temperature).masked_fill(itself, -torch.inf)
    return scores, torch.arange(len(embeddings), device=embeddings.device).roll(len(first))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Returns the normalised, temperature-scaled cross-entropy of N images' embeddings [N, D] in two views.

    Each of the 2N must find the other view of its image among all others; averaged over the 2N (their equation 1).
    """
    return F.cross_entropy(*similarities(first, second, temperature))


class SimCLR(Pretraining):
    """NT-Xent of two strong views of each image, behind a projection head of two layers that is thrown away afterwards.

    The head reads what the classifier would read. Both views go through the network in one pass, as in the authors' code; its
    batch norms see all of them together.
    """

    label = "SimCLR"
    capturable = True
    tempered = True
    own_views = (STRONG, WEAK)
    other_views = (STRONG2,)

    def __init__(self, *, hidden: Width, size: Width, **shared):
        super().__init__(**shared)
        self.hidden = hidden
        self.size = size

    def layers(self, student, teacher):
        if not has_landmarks(student):
            raise ValueError(f"it is unknown which module of {type(student).__name__} gives the logits")
        self.pooled = landmarks_of(student).pooled
        return [self.pooled], []

    def setup(self, probe):
        width = probe.student.features[self.pooled][0].numel()
        self.head = nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.size))

    def update(self, learner, batch, teacher, progress):
        if len(batch.image) == 1:
            raise ValueError("SimCLR compares the images of a batch, and a single one has no other")
        views = learner.forward_all([batch.image, batch.views[STRONG2]], joint=True)
        first, second = (self.head(outputs.features[self.pooled].flatten(1)) for outputs in views)
        terms = {"nt_xent": nt_xent(first, second, self.temperature)}
        learner.descend(terms)
        return terms

    def describe(self):
        return f"{self.label}, T={self.temperature:g}"
