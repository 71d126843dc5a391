"""Features first, then labels (EVA: Fang et al. 2023, arXiv 2211.07636)."""

from typing import Annotated, Literal

from kdexp.configuration.arguments import Range
from kdexp.distillation.feature_cosine import FeatureCosine
from kdexp.errors import InvalidArguments, Problem
from kdexp.network.landmarks import has_landmarks

Share = Annotated[float, Range(above=0, below=1)]


class FeaturePretraining(FeatureCosine):
    """`feature_cosine` alone for a share `label_free` of the epochs, then the other terms alone.

    After that the whole network is trained, or with `finetune=classifier` the classifier alone: what comes before it keeps its
    weights and running statistics, and works as in evaluation. The optimizer, its schedule and the random stream go on.
    Terms of the other part are not computed, and logged as 0; the teacher runs only where a term reads it.
    """

    label = "feature cosine"
    capturable = True
    features_only = True
    of_outputs = True

    def __init__(self, *, label_free: Share, finetune: Literal["network", "classifier"], **shared):
        super().__init__(**shared)
        self.label_free = label_free
        self.finetune = finetune

    @property
    def weighs_classes(self):
        return True

    def layers(self, student, teacher):
        if self.finetune == "classifier" and not has_landmarks(student):
            sentence = f"='classifier': it is unknown which module of {type(student).__name__} gives the logits; use network"
            raise InvalidArguments([Problem("finetune", sentence)])
        return super().layers(student, teacher)

    def weighted(self):
        return super().weighted()[:-1]

    def phase(self, progress):
        """Whether the step is one without labels."""
        return progress.epoch < self.label_free * progress.epochs

    def reads_teacher(self, progress):
        return self.phase(progress) or self.kd_weight > 0

    def reads_unlabelled(self, progress):
        return super().reads_unlabelled(progress) and self.reads_teacher(progress)

    def update(self, learner, batch, teacher, progress):
        frozen = self.finetune == "classifier" and not self.phase(progress)
        image = self.images(batch) if self.reads_unlabelled(progress) else batch.image
        student = learner.forward_frozen(image) if frozen else learner.forward(image)
        terms = dict.fromkeys(self.names, student.logits.new_zeros(()))
        if self.phase(progress):
            terms |= self.own_terms(batch, student, teacher, progress)
        else:
            terms |= self.losses(batch, student, teacher, progress)
        learner.descend(terms)
        return terms

    def transfer(self, batch, student, teacher, progress):
        return super().transfer(batch, student, teacher, progress) if self.phase(progress) else {}

    @property
    def names(self) -> list[str]:
        """The terms of both parts."""
        return ["ce"] * bool(self.ce_weight) + ["kd"] * bool(self.kd_weight) + ["feature_cosine"]

    def describe(self):
        alone = ", classifier alone" if self.finetune == "classifier" else ""
        return f"{self.label} for {self.label_free:.4g} of the epochs, then {super().describe()}{alone}"
