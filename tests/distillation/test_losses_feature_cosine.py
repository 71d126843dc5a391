"""Cosine of projected features: maps, tokens and vectors, and the two parts of a training that begins without labels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import LAYERS, WEIGHTS, batch_of, feature_method, few, own_term, random
from torch import nn

from kdexp.distillation.base import Progress
from kdexp.distillation.feature_cosine import FeatureCosine, as_map, tokens_before_patches
from kdexp.distillation.feature_pretraining import FeaturePretraining
from kdexp.errors import InvalidArguments
from kdexp.network.capture import Outputs


def pooled(image, size):
    """Averages a map [C, H, W] over windows whose bounds are rounded outwards."""
    height, width = image.shape[1:]
    rows = [(y * height // size, -(-(y + 1) * height // size)) for y in range(size)]
    columns = [(x * width // size, -(-(x + 1) * width // size)) for x in range(size)]
    return np.array([[image[:, a:b, c:d].mean((1, 2)) for c, d in columns] for a, b in rows])  # [size, size, C]


def distance(method, ours, theirs):
    """Returns 1 − cosine of the projected rows of `ours` and the rows of `theirs`, averaged."""
    weight, bias = (value.detach().numpy() for value in (method.projector.weight, method.projector.bias))
    projected = ours @ weight.T + bias
    lengths = np.linalg.norm(projected, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return (1 - (projected * theirs).sum(-1) / lengths).mean()


@few
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3))
def test_maps_are_compared_at_each_position_of_the_smaller_one(mine, other, images):
    ours, theirs = random(images, 3, mine, mine), random(images, 5, other, other, seed=1)
    method, *outputs = feature_method(FeatureCosine, ours, theirs)
    size = min(mine, other)
    rows = [np.array([pooled(image, size) for image in maps.numpy()]) for maps in (ours, theirs)]
    np.testing.assert_allclose(own_term(method, *outputs).item(), distance(method, *rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("registers", [0, 1, 5])
def test_tokens_are_compared_as_maps_without_class_and_register_tokens(registers):
    maps, ours = random(2, 5, 3, 3, seed=1), random(2, 3, 3, 3)
    tokens = torch.cat([random(2, registers, 5, seed=2), maps.flatten(2).transpose(1, 2)], 1)
    method, student, teacher = feature_method(FeatureCosine, ours, maps)
    expected = own_term(method, student, teacher)
    method._before = (0, registers)
    found = own_term(method, student, Outputs(teacher.logits, {"theirs": tokens}))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)  # sums may take another order in other memory


def test_beside_a_vector_maps_and_tokens_are_averaged():
    ours, theirs = random(2, 3, 4, 4), random(2, 5, seed=1)
    method, *outputs = feature_method(FeatureCosine, ours, theirs)
    expected = distance(method, ours.numpy().mean((2, 3)), theirs.numpy())
    np.testing.assert_allclose(own_term(method, *outputs).item(), expected, rtol=1e-9)
    no_square = random(2, 1 + 6, 5)
    assert torch.equal(as_map(no_square, 1), no_square[:, 1:].mean(1))
    assert as_map(random(2, 16, 5), 1).shape == (2, 5, 4, 4)  # without a class token after all
    with pytest.raises(ValueError, match="maps, tokens or vectors, not 2×2×2×2"):
        as_map(torch.zeros(1, 2, 2, 2, 2), 0)


def test_a_networks_tokens_before_its_patches_are_known():
    torchvision = nn.Identity()
    torchvision.class_token = nn.Parameter(torch.zeros(1, 1, 3))
    timm = nn.Identity()
    timm.num_prefix_tokens = 5
    assert [tokens_before_patches(net) for net in (torchvision, timm, nn.Identity())] == [1, 5, 0]


def test_a_student_that_learns_no_labels_is_refused():
    with pytest.raises(InvalidArguments, match=r"^ce_weight=0: without labels .* distillation=feature_pretraining"):
        FeatureCosine(**WEIGHTS | LAYERS | {"ce_weight": 0.0})
    assert FeatureCosine(**WEIGHTS | LAYERS | {"alpha": 0.0}).kd_weight == 1  # soft targets train the classifier


class Steps:
    """A learner that keeps what it is asked to descend."""

    def __init__(self, outputs):
        self.outputs = outputs

    def forward(self, image):
        self.frozen = False
        return self.outputs

    def forward_frozen(self, image):
        self.frozen = True
        return self.outputs

    def descend(self, terms):
        self.terms = terms


def two_parts(**knobs):
    ours, theirs = random(3, 2, 2, 2), random(3, 4, 2, 2, seed=1)
    return feature_method(FeaturePretraining, ours, theirs, **{"label_free": 0.3, "finetune": "network"} | knobs)


@pytest.mark.parametrize(("epoch", "only"), [(0.1, "feature_cosine"), (2.99, "feature_cosine"), (3.01, "ce"), (9.9, "ce")])
def test_features_alone_come_first_and_labels_alone_after_them(epoch, only):
    method, student, teacher = two_parts()
    learner, progress = Steps(student), Progress(epoch, 10, 0)
    assert method.reads_teacher(progress) == (only != "ce")
    terms = method.update(learner, batch_of([0, 1, 2]), teacher if only != "ce" else None, progress)
    assert learner.terms is terms and list(terms) == ["ce", "feature_cosine"] and not learner.frozen
    assert [name for name, term in terms.items() if term.item()] == [only]
    assert terms[only].item() == method.losses(batch_of([0, 1, 2]), student, teacher, progress)[only].item()
    assert method.describe() == "feature cosine for 0.3 of the epochs, then CE"


def test_soft_targets_have_the_teacher_run_in_both_parts():
    method, student, teacher = two_parts(alpha=0.25)
    assert method.reads_teacher(Progress(0.1, 10, 0)) and method.reads_teacher(Progress(9, 10, 0))
    terms = method.update(Steps(student), batch_of([0, 1, 2]), teacher, Progress(9, 10, 0))
    assert list(terms) == ["ce", "kd", "feature_cosine"] and terms["feature_cosine"] == 0


def test_the_classifier_alone_can_be_trained_on_labels():
    method, student, teacher = two_parts(finetune="classifier")
    learner = Steps(student)
    for epoch in (0.1, 9):
        method.update(learner, batch_of([0, 1, 2]), teacher, Progress(epoch, 10, 0))
        assert learner.frozen == (epoch == 9)
    assert method.describe() == "feature cosine for 0.3 of the epochs, then CE, classifier alone"
    without_landmarks = r"^finetune='classifier': it is unknown which module of Identity gives the logits; use network"
    with pytest.raises(InvalidArguments, match=without_landmarks):
        method.layers(nn.Identity(), nn.Identity())
