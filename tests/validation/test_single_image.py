"""Learners that can't be trained on a last batch of one image are refused before anything is trained."""

import pytest
import torch
from experiments import compose_command
from hypothesis import given
from hypothesis import strategies as st

from kdexp.configuration.nodes import build
from kdexp.data.load import load
from kdexp.data.shape import Shape
from kdexp.errors import DataUnavailable
from kdexp.network.build import build_network
from kdexp.validation.validator import validate

ONE_IS_LEFT = ("batch_size=89", "limit_batches=null")
"""Leaves one image of the 90 that students see of the digits, and ten of the teacher's 900."""
BOTH = "distillation.student_layers=[features]", "distillation.teacher_layers=[features]"
IN_SUM = [word.replace("distillation.", "distillation.methods.fitnet.") for word in BOTH]
RESNETS = ("teacher=resnet14", "student=resnet8")


@pytest.fixture
def make_ready(make_experiment):
    """Makes a valid experiment ready whose last batch for students has one image."""

    def ready(*words):
        experiment = make_experiment(*ONE_IS_LEFT, *words)
        assert not validate(experiment.config)
        experiment.make_ready()

    return ready


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "who"),
    [
        (["distillation=fitnet", *BOTH], "mlp_small can't be trained by CE + 100 FitNet"),
        (["distillation=sum", "+distillation@distillation.methods.fitnet=fitnet", *IN_SUM], "MSE + 100 FitNet"),
        (["distillation=reviewkd", *RESNETS], "resnet8 can't be trained by CE + 5 ReviewKD"),
        (
            ["distillation=mutual", "distillation.peer=${teacher}", "teacher=vgg8"],
            "mlp_small can't be trained by CE + peer's KL",
        ),
    ],
)
def test_a_method_that_needs_two_images_is_refused(make_ready, words, who):
    with pytest.raises(DataUnavailable) as refusal:
        make_ready(*words)
    sentence = str(refusal.value)
    assert sentence.startswith("distilled: the last batch has a single image (of 90), on which ") and who in sentence
    assert sentence.endswith("; batch_size=90 avoids that")


@pytest.mark.slow
def test_a_network_is_named_without_the_method(make_ready):
    with pytest.raises(DataUnavailable, match=r"^baseline: .*, on which vgg8 can't be trained \(Expected more than 1 value"):
        make_ready("distillation=fitnet", "student=vgg8", "teacher=vgg8")


@pytest.mark.parametrize("way_out", ["batch_size=90", "limit_batches=1"])
def test_the_suggested_fix_works(make_ready, way_out):
    make_ready("distillation=fitnet", *BOTH, way_out)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fitnet", "simkd", "srrl", "crd", "semckd", "mutual"])
def test_a_method_that_can_train_on_one_image_is_not_refused(make_ready, method):
    make_ready(f"distillation={method}", *RESNETS)


@pytest.mark.slow
def test_the_check_draws_no_random_numbers_of_others(make_ready):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    nets = [word for role in ("teacher", "student") for word in (f"{role}._target_=own_networks.DropNet", f"~{role}.hidden")]
    make_ready("distillation=crd", "controls=[self_teacher,random_teacher]", *nets)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_a_frozen_backbone_can_train_on_one_image(make_ready, tmp_path):
    vgg8 = build_network(compose_command(["student=vgg8"])["student"], Shape(10, 1, 8))
    torch.save(vgg8.state_dict(), tmp_path / "vgg.pt")
    make_ready("student=vgg8", f"student.checkpoint={tmp_path / 'vgg.pt'}", "student.frozen_backbone=true")


def test_other_errors_of_a_step_are_left_to_the_training(make_ready, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of ideas")

    monkeypatch.setattr("kdexp.distillation.hint.Hint.transfer", broken)
    make_ready("distillation=hint")


@pytest.fixture(scope="module")
def split():
    """The 90 images that students see of the digits."""
    return load(build(compose_command([])["dataset"]), torch.device("cpu")).student_train


@pytest.mark.slow
@given(batch_size=st.integers(1, 95), limit=st.none() | st.integers(1, 95))
def test_the_last_batch_is_known_before_it_is_cut(split, batch_size, limit):
    *_, last = split.batches(batch_size, seed=0, epoch=0, limit=limit)
    assert split.leaves_one(batch_size, limit) == (len(last.label) == 1)
