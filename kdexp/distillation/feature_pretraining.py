"""Features first, then labels (EVA: Fang et al. 2023, arXiv 2211.07636)."""

from typing import Annotated

from kdexp.configuration.arguments import Range
from kdexp.distillation.feature_cosine import FeatureCosine

Share = Annotated[float, Range(above=0, below=1)]


class FeaturePretraining(FeatureCosine):
    """`feature_cosine` alone for a share `label_free` of the epochs, then the other terms alone.

    The optimizer, its schedule and the random stream go on; only the terms change.
    """

    label = "feature cosine"
    capturable = True
    features_only = True
    of_outputs = True

    def __init__(self, *, label_free: Share, **shared):
        super().__init__(**shared)
        self.label_free = label_free

    @property
    def weighs_classes(self):
        return True

    def weighted(self):
        return super().weighted()[:-1]

    def phase(self, progress):
        return progress.epoch < self.label_free * progress.epochs

    def update(self, learner, batch, teacher, progress):
        terms = self.losses(batch, learner.forward(self.images(batch)), teacher, progress)
        without_labels = self.phase(progress)
        terms = {name: term if (name == "feature_cosine") == without_labels else 0 * term for name, term in terms.items()}
        learner.descend(terms)
        return terms

    def describe(self):
        return f"{self.label} for {self.label_free:.4g} of the epochs, then {super().describe()}"
