"""SRRL: representations judged by the teacher's own classifier (Yang et al. 2021, "Knowledge distillation via softmax
regression representation learning", ICLR).

Chen et al. 2022 (SimKD, arXiv 2203.14001) have the two terms at equal weights, as they are here.
"""

import torch.nn.functional as F
from torch import nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import size_of


class SRRL(FeatureDistiller):
    """Mean squared errors of the student's connected vector and the teacher's, and of the logits that the teacher's frozen
    classifier makes of the one and of the other; averaged over all elements.

    The connector is linear without bias, batch norm, ReLU; a single image it takes as in evaluation.
    """

    label = "SRRL"
    capturable = True
    landmarks = ("pooled",)

    def setup(self, probe):
        """Raises `ValueError` also where it is unknown which module the teacher's classifier is."""
        ours, theirs = self.only_pair(probe.student, probe.teacher)
        classifier = probe.classify
        if not isinstance(classifier, nn.Linear):
            which = "no role says which module that is" if classifier is None else f"that is a {type(classifier).__name__}"
            raise ValueError(f"srrl judges by the teacher's linear classifier, but {which}; choose another teacher")
        if ours.dim() != 2 or theirs.shape[1:] != (classifier.in_features,):
            raise ValueError(
                f"srrl compares a vector of the student's with the {classifier.in_features} values that the teacher's "
                f"classifier takes, not {size_of(ours)} (student) with {size_of(theirs)} (teacher); choose other "
                "student_layers or teacher_layers"
            )
        self._classifier = (classifier,)  # in a tuple, so that it is no part of what this method trains and stores
        width = classifier.in_features
        self.connect = nn.Sequential(nn.Linear(ours.shape[1], width, bias=False), nn.BatchNorm1d(width), nn.ReLU())

    def transfer(self, batch, student, teacher, progress):
        ours, theirs = self.only_pair(student, teacher)
        self.connect.train(self.training and len(ours) > 1)
        said = self.connect(ours)
        (classify,) = self._classifier
        return {"srrl_features": F.mse_loss(said, theirs), "srrl_logits": F.mse_loss(classify(said), teacher.logits)}
