"""SRRL (Yang et al. 2021, "Knowledge distillation via softmax regression representation learning", ICLR).

The two terms have equal weights, as in Chen et al. 2022 (SimKD, arXiv 2203.14001).
"""

import torch.nn.functional as F
from torch import nn

from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import size_of


class SRRL(FeatureDistiller):
    """Mean squared errors between the student's connected vector and the teacher's, and between the logits that the teacher's
    frozen classifier gives for each, averaged over all elements.

    The connector is a linear layer without bias, batch norm and ReLU. It takes a batch of one image as in evaluation.
    """

    label = "SRRL"
    capturable = True
    per_image = True
    landmarks = ("pooled",)

    def setup(self, probe):
        """Raises `ValueError` also for a teacher without landmarks, whose classifier is unknown."""
        ours, theirs = self.only_pair(probe.student, probe.teacher)
        classifier = probe.classify
        if not isinstance(classifier, nn.Linear):
            which = "it declares no landmarks" if classifier is None else f"that is a {type(classifier).__name__}"
            raise ValueError(f"srrl judges by the teacher's linear classifier, but {which}; choose another teacher")
        if ours.dim() != 2 or theirs.shape[1:] != (classifier.in_features,):
            raise ValueError(
                f"srrl compares a vector of the student's with the {classifier.in_features} values that the teacher's "
                f"classifier takes, not {size_of(ours)} (student) with {size_of(theirs)} (teacher); choose other "
                "student_layers or teacher_layers"
            )
        self._classifier = (classifier,)  # in a tuple, so that PyTorch does not register it for training and storing
        width = classifier.in_features
        self.connect = nn.Sequential(nn.Linear(ours.shape[1], width, bias=False), nn.BatchNorm1d(width), nn.ReLU())

    def transfer(self, batch, student, teacher, progress):
        ours, theirs = self.only_pair(student, teacher)
        self.connect.train(self.training and len(ours) > 1)
        connected = self.connect(ours)
        (classify,) = self._classifier
        return {
            "srrl_features": F.mse_loss(connected, theirs),
            "srrl_logits": F.mse_loss(classify(connected), teacher.logits),
        }
