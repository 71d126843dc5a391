"""SimKD: the teacher's classifier, reused on the student's projected last map (Chen et al. 2022, arXiv 2203.14001)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdexp.configuration.arguments import Count
from kdexp.distillation.base import FeatureDistiller
from kdexp.distillation.maps import pool_to_min, size_of
from kdexp.errors import listed
from kdexp.network.capture import Outputs
from kdexp.network.graft import graft
from kdexp.network.landmarks import Landmarks, classifier_of, has_landmarks, landmarks_of
from kdexp.network.layers import INPUT
from kdexp.tasks.classification import same_answers

PROJECTED = ".projected"
"""Name of the feature that `answer` adds to the student's outputs."""


def projector(ours: Tensor, theirs: Tensor, factor: int) -> nn.Sequential:
    """Builds 1×1, 3×3 and 1×1 convolutions, each with batch norm and ReLU, from the student's last map to the teacher's.

    A larger student's map is pooled to the teacher's size first. The inner maps have `factor` times fewer channels than the
    teacher's.
    """
    ins, outs = ours.shape[1], theirs.shape[1]
    inner = max(outs // factor, 1)
    size = tuple(pool_to_min(ours, theirs)[0].shape[2:])
    layers: list[nn.Module] = [] if ours.shape[2:] == size else [nn.AdaptiveAvgPool2d(size)]
    for before, after, kernel in ((ins, inner, 1), (inner, inner, 3), (inner, outs, 1)):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class SimKD(FeatureDistiller):
    """Mean squared error between the projected last map and the teacher's (pooled to the same size), over all elements.

    The student predicts with the teacher's frozen classifier on the pooled projected map. It is deployed with projector and
    teacher's classifier in place of everything after its own last map. A batch of one image is projected as in evaluation.
    """

    label = "SimKD"
    capturable = True
    per_image = True
    own_weights = (0.0, 0.0)

    def __init__(self, *, factor: Count, **shared):
        super().__init__(**shared)
        self.factor = factor

    def layers(self, student, teacher):
        """Raises `ValueError` for networks without landmarks, and for a teacher whose classifier does not read pooled maps."""
        for network in (student, teacher):
            if not has_landmarks(network):
                raise ValueError(
                    f"simkd exchanges classifiers, and {type(network).__name__} declares no landmarks that say which it is"
                )
        ours, theirs = super().layers(student, teacher)
        if ours[0].endswith(INPUT):
            raise ValueError(
                f"simkd puts its projector behind a module, which student_layers={ours} must name, without {INPUT}"
            )
        self._check_teacher(teacher, theirs[0])
        self._student_layer = ours[0]
        return ours, theirs

    def _check_teacher(self, teacher: nn.Module, layer: str) -> None:
        head = landmarks_of(teacher).head
        if head and layer == landmarks_of(teacher).last_map:
            raise ValueError(
                f"simkd takes the map whose averages the teacher's classifier reads, and between {layer} and the classifier of "
                f"{type(teacher).__name__} there is {listed(head)}: add 'distillation.teacher_layers=[{head[-1]}]' if that "
                "gives a map, else choose another teacher"
            )

    def setup(self, probe):
        """Raises `ValueError` also for features that are not maps, or that the teacher's classifier does not read, pooled."""
        ours, theirs = self.only_pair(probe.student, probe.teacher)
        classifier = probe.classify
        if ours.dim() != 4 or theirs.dim() != 4:
            raise ValueError(f"simkd projects maps, not {size_of(ours)} (student) to {size_of(theirs)} (teacher)")
        if not isinstance(classifier, nn.Linear) or not _reads(classifier, theirs, probe.teacher.logits):
            raise ValueError(
                f"simkd takes a map whose averages the teacher's linear classifier reads, and {size_of(theirs)} (teacher) "
                "is none; choose other teacher_layers or another teacher"
            )
        self._classifier = (classifier,)  # in a tuple, so that PyTorch does not register it for training and storing
        self.projector = projector(ours, theirs, self.factor)

    def answer(self, student):
        self.projector.train(self.training and len(student.logits) > 1)
        projected = self.projector(student.features[self._student_layer])
        (classify,) = self._classifier
        features = student.features | {PROJECTED: projected.float()}
        return Outputs(classify(projected.mean((2, 3))).float(), features)

    def transfer(self, batch, student, teacher, progress):
        _, theirs = self.only_pair(student, teacher)
        return {"simkd": F.mse_loss(*pool_to_min(student.features[PROJECTED], theirs))}

    def deployed(self, student, teacher):
        layer, landmarks = self._student_layer, landmarks_of(student)
        later = landmarks.head[landmarks.head.index(layer) + 1 :] if layer in landmarks.head else landmarks.head
        changes = {
            layer: nn.Sequential(student.get_submodule(layer), self.projector),
            **{name: nn.Identity() for name in later},
            landmarks.classifier: classifier_of(teacher),
        }
        network: Any = graft(student, changes)
        network.landmarks = Landmarks(landmarks.classifier, layer, landmarks.stages)
        return network


def _reads(classifier: nn.Linear, maps: Tensor, logits: Tensor) -> bool:
    """Whether the classifier gives these logits for the pooled maps, judged by values or, on the meta device, by shapes."""
    if maps.shape[1] != classifier.in_features:
        return False
    return maps.is_meta or same_answers(classifier(maps.mean((2, 3))), logits)
