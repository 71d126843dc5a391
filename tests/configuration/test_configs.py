"""Every YAML file that is shipped, found by glob."""

import pytest
import torch
import yaml
from each_method import chosen
from experiments import compose_command
from shipped import CONF, options

from kdexp.configuration.compose import Composer
from kdexp.configuration.nodes import build
from kdexp.data import torchvision_sets
from kdexp.data.shape import Shape
from kdexp.network.build import build_network
from kdexp.validation.validator import Validator

validator = Validator()
"""One for all, as for the jobs of a sweep: each network is looked at once."""

SHAPES = {"mnist": Shape(10, 1, 28), "cifar10": Shape(10, 3, 32), "digits": Shape(10, 1, 8)}


def data_for(model: str) -> str:
    text = (CONF / "model" / f"{model}.yaml").read_text()
    return next((name for name, size in {"mnist": "28×28", "cifar10": "32×32"}.items() if size in text), "digits")


GROUPS = ("dataset", "distillation", "optimizer", "schedule", "averaging", "pretraining", "protocol", "experiment")
CHOICES = [(group, name) for group in GROUPS for name in options(group)] + [("teacher", "ensemble")]


def test_the_globs_find_what_is_shipped():
    floors = {"dataset": 5, "model": 6, "distillation": 5, "optimizer": 3, "schedule": 3, "recipe": 4}
    floors |= {"protocol": 3, "experiment": 25, "sweep": 4}
    assert {group: len(options(group)) for group in floors if len(options(group)) < floors[group]} == {}


FEW_LABELS = ("fixmatch", "torchssl", "mpl")
"""Protocols that need a data set with few labels, and choose the student."""


STAGED = ["teacher=resnet14", "student=resnet8"]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_option_composes_and_validates(group, name, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "find_spec", lambda package: package)  # SVHN's scipy need not be there
    student = ["teacher=deepnn", "student=lightnn"] if name.startswith(("cifar", "svhn")) else []
    student = ["teacher=keras_teacher", "student=keras_student"] if "mnist" in name else student
    student += [f"dataset.root={tmp_path}"] if "root: ???" in (CONF / group / f"{name}.yaml").read_text() else []
    few_labels = ["dataset=cifar10", "dataset.labels=400", "teacher=resnet14"]
    needed = {"dataset": student, "protocol": few_labels if name in FEW_LABELS else STAGED, "distillation": STAGED}
    needed["pretraining"] = ["strong@dataset.strong_view=geometric"]
    option = chosen(name) if group == "distillation" else [f"{group}={name}"]
    config = compose_command([*option, *needed.get(group, [])])
    assert [problem for problem in validator.problems(config) if "dataset.root" not in str(problem)] == []
    if group not in ("pretraining", "protocol", "experiment", "teacher"):
        assert build(config[group]) is not None


def owner_of(recipe: str) -> tuple[str, str]:
    """The group and the option that a recipe is for; its name goes on with the method."""
    owners = [(group, name) for group in ("experiment", "protocol") for name in options(group) if recipe.startswith(f"{name}_")]
    return max(owners, key=lambda owner: len(owner[1]))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", options("recipe"))
def test_every_recipe_belongs_to_an_experiment_or_a_protocol_and_a_method_and_is_picked_up(recipe):
    group, owner = owner_of(recipe)
    method = recipe.removeprefix(f"{owner}_")
    if method not in options("distillation"):
        pytest.skip(f"there is no distillation={method}")
    nets = STAGED if group == "protocol" else []
    composed = compose_command([f"{group}={owner}", f"distillation={method}", *nets])
    wanted = yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text())["distillation"]
    assert {key: composed.distillation[key] for key in wanted} == wanted
    assert recipe in (composed.choices.recipe, composed.choices["_global_"])
    assert validator.problems(composed) == []


@pytest.mark.slow
def test_a_recipe_does_not_leak_into_another_method():
    composed = compose_command(["experiment=cifar10_tutorial", "distillation=mse_logits"])
    assert composed.distillation == compose_command(["distillation=mse_logits"]).distillation


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_teachers_and_students_are_the_models(role):
    assert [name for name in options(role) if name != "ensemble"] == options("model")
    composer = Composer()
    own = yaml.safe_load((CONF / "role" / f"{role}.yaml").read_text())
    shared = {"checkpoint": None, "checkpoint_prefix": None, "checkpoint_fresh": []}
    assert own == shared | ({"frozen_backbone": False} if role == "student" else {"head": None})
    for name in ("deepnn", "resnet8x4", "torchvision"):  # composed by one piece of code from the two files
        composed = composer.compose([f"{role}={name}"])[role]
        assert composed == own | yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("model", options("model"))
def test_every_model_builds_and_answers(model):
    data = data_for(model)
    network = build_network(compose_command([f"student={model}"]).student, SHAPES[data])
    assert network(SHAPES[data].probe("cpu")).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "count"),
    [("deepnn", 1_186_986), ("lightnn", 267_738), ("keras_teacher", 1_433_610), ("keras_student", 20_490)],
)
def test_parameter_counts_are_the_published_ones(model, count):
    network = build_network(compose_command([f"student={model}"]).student, SHAPES[data_for(model)])
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.slow
@pytest.mark.parametrize("method", options("distillation"))
def test_every_method_has_its_file_its_citation_and_the_shared_knobs(method):
    path = CONF / "distillation" / f"{method}.yaml"
    node = compose_command([*chosen(method), *STAGED]).distillation  # composed above, too
    assert node["_target_"].startswith(f"kdexp.distillation.{method}.")
    assert path.read_text().startswith("# ")
    assert {"temperature", "alpha", "ce_weight", "kd_weight"} <= set(node)
    assert isinstance(build(node), torch.nn.Module)


@pytest.mark.slow
def test_the_teachers_optimizer_follows_the_group_but_not_the_value():
    config = compose_command(["optimizer=sgd", "optimizer.lr=0.3"])
    assert (config.teacher_optimizer._target_, config.teacher_optimizer.lr) == ("kdexp.training.optimization.SGD", 0.05)
    other = compose_command(["optimizer@teacher_optimizer=adam", "teacher_optimizer.lr=0.2", "schedule=cosine"])
    assert (other.teacher_optimizer.lr, other.optimizer.lr) == (0.2, 0.001)
    assert other.teacher_schedule._target_ == "kdexp.training.optimization.Cosine"


@pytest.mark.slow
def test_teacher_epochs_follow_epochs_unless_set():
    assert compose_command(["epochs=7", "dataset=mnist"]).teacher_epochs == 7
    assert compose_command(["epochs=7", "dataset=mnist", "teacher_epochs=3"]).teacher_epochs == 3
    assert compose_command(["epochs=7"]).teacher_epochs == 40, "what the digits' recipe says"
