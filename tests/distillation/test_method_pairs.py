"""Every method between networks of every family takes a step, or is refused in one sentence before anything runs."""

from functools import cache

import pytest
import torch
from each_method import averaged
from experiments import COMPOSER
from pairs import random_batch, untrained_pair
from shipped import options

from kdexp.data.shape import Shape
from kdexp.distillation.base import Progress
from kdexp.validation.validator import Validator

SHAPE = Shape(100, 3, 32)
METHODS = [method for method in options("distillation") if method != "none"]
SMALL = "resnet8"
FAMILIES = {
    "resnet": ("resnet8x4",),
    "wrn": ("wrn_16_1",),
    "vgg": ("vgg8",),
    "mobilenet": ("mobilenetv2_half",),
    "shufflenet": ("shufflenetv2",),
    "torchvision": ("torchvision", "name=resnet18", "stem=small"),
}
SIZE, LENGTH = "hint compares maps of one size, not ", "cosine averages neighbouring teacher values until both vectors"
REFUSED: dict[tuple[str, str | None, str | None], str] = {
    **{("hint", family, None): SIZE for family in ("vgg", "mobilenet", "shufflenet", "torchvision")},
    **{("hint", None, family): SIZE for family in ("vgg", "mobilenet", "shufflenet", "torchvision")},
    **{("cosine", family, None): LENGTH for family in ("resnet", "vgg", "mobilenet", "shufflenet", "torchvision")},
    **{("cosine", None, family): LENGTH for family in ("mobilenet", "shufflenet")},
    ("reviewkd", None, "torchvision"): "declares no preactivations, so its layers must be named",
    (
        "simkd",
        None,
        "mobilenet",
    ): "classifier of MobileNetV2 there is head: add 'distillation.teacher_layers=[head]' if that gives",
    (
        "simkd",
        None,
        "shufflenet",
    ): "classifier of ShuffleNetV2 there is head: add 'distillation.teacher_layers=[head]' if that gives",
}
"""(method, student's family, teacher's family): the sentence; None stands for the small net."""


def words(role, family):
    option, *values = FAMILIES.get(family, (SMALL,))
    return [f"{role}={option}", *(f"{role}.{value}" for value in values)]


@cache
def composed_once(method, student, teacher):
    data = ("dataset=cifar100", "dataset.root=.", "dataset.download=true", "batch_size=4")
    chosen = [f"distillation={method}", *averaged(method), *words("student", student), *words("teacher", teacher)]
    return COMPOSER.compose([*data, "dataset.labels=400", "strong@dataset.strong_view=fixmatch", *chosen])


def composed(method, student, teacher):
    """Composes each method and each pair once: choosing a method changes no network, nor does a pair change most methods."""
    if method in ("mutual", "mpl"):  # have a second network, which is like the student
        return composed_once(method, student, teacher)
    of_method, of_pair = composed_once(method, None, None), composed_once("kd", student, teacher)
    roles = ("student", "teacher")
    choices = {key: value for key, value in of_pair["choices"].items() if key.partition(".")[0] in roles}
    return {**of_method, **{role: of_pair[role] for role in roles}, "choices": {**of_method["choices"], **choices}}


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", METHODS)
def test_a_composed_pair_is_that_of_its_words(method):
    assert composed(method, "torchvision", None) == composed_once(method, "torchvision", None)


validator = Validator()
"""One validator for all tests, as for the jobs of a sweep, so that each network is checked once."""


def refusal(config):
    return "; ".join(map(str, validator.problems(config)))


@pytest.mark.slow
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_family_is_accepted_or_refused(method, family, role):
    pair = (family, None) if role == "student" else (None, family)
    found, expected = refusal(composed(method, *pair)), REFUSED.get((method, *pair))
    assert expected in found if expected else not found


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["resnet", *(pytest.param(family, marks=pytest.mark.exhaustive) for family in FAMILIES if family != "resnet")]
)
@pytest.mark.parametrize("method", METHODS)
def test_a_student_of_every_family_takes_a_step(method, family):
    if (method, family, None) in REFUSED:
        pytest.skip("refused, as the test above holds")
    config = composed(method, family, None)
    learner, teacher = untrained_pair(config, SHAPE, batch_size=4)
    batch = random_batch(SHAPE, 4, learner.distiller)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.train()
    learner.step(batch, teacher(batch), Progress(epoch=0.5, epochs=1, step=0))
    assert not learner.failure, learner.traceback
    assert torch.isfinite(learner.close_epoch(None)).all()
    assert any(not torch.equal(before[name], value) for name, value in learner.model.state_dict().items())
