"""Extreme numbers: each is refused by name, or the object that is made with it works."""

import copy
import math
from functools import cache
from typing import Annotated, get_args, get_origin

import pytest
import torch
from experiments import COMPOSER, compose_command
from omegaconf import OmegaConf
from pairs import random_batch, untrained_pair
from shipped import options
from torch import nn

from kdexp.configuration.arguments import MOST, Range, misfit, parameters, problems
from kdexp.configuration.nodes import arguments, build, target
from kdexp.configuration.settings import Settings
from kdexp.data.shape import Shape
from kdexp.device import memory
from kdexp.device.random import RandomStream
from kdexp.distillation.base import Distiller, Progress
from kdexp.errors import DataUnavailable
from kdexp.network import footprint
from kdexp.network.build import on_meta, sketch_network, without_start
from kdexp.network.footprint import Room, activation_bytes
from kdexp.training import prepare as preparation
from kdexp.validation import validator as validation
from kdexp.validation.networks import check_network

SHAPE = Shape(3, 1, 8)
EXTREMES = [1e-50, 1e300, 2.0**-126, 3e38, 2**31 - 1, 2**32 - 1, 2**63, 2**64, 10**30, 10**6000, -1, -(2**63), 0]
PAIR = ["teacher=resnet14", "teacher.widths=[4,4,8,16]", "student=resnet8", "student.widths=[4,4,6,8]"]

COMMANDS = {
    ("seed=4294967296", "teacher_seed=100000000000000000000", "epochs=1000000000000000000", "teacher_epochs=2147483648"): [
        "  seed=4294967296: must be between 0 and 4294967295",
        "teacher_seed=100000000000000000000: must be between 0 and 4294967295",
        "  epochs=1000000000000000000: must be between 1 and 2147483647",
        "teacher_epochs=2147483648: must be between 1 and 2147483647",
    ],
    ("batch_size=1000000000000", "limit_batches=1000000000000", "num_threads=100000", "workers=100000"): [
        "batch_size=1000000000000: must be between 1 and 2147483647",
        "limit_batches=1000000000000: must be between 1 and 2147483647 (or null)",
        "num_threads=100000: must be between 1 and ",
        "workers=100000: must be between 1 and ",
    ],
    ("student.hidden=[1000000000]", "distillation.temperature=1e-50", "optimizer.lr=1e300", "optimizer.betas=[0.9,1e-60]"): [
        "student.hidden=[1000000000]: each entry must be between 1 and 1048576",
        "distillation.temperature=1e-50: is outside of float32, 1.2e-38 to 3.4e+38",
        "optimizer.lr=1e+300: is outside of float32, 1.2e-38 to 3.4e+38",
        "optimizer.betas=[0.9, 1e-60]: each entry is outside of float32",
    ],
    ("dataset.crop_padding=9", "optimizer.weight_decay=1e-45", "distillation.temperature=1e-10"): [
        "dataset.crop_padding=9: must be at most 8, the size of the images",
        "optimizer.weight_decay=1e-45: is outside of float32",
        "distillation.temperature=1e-10: must be between 1e-06 and 1e+06",
    ],
    (f"seed={'9' * 3900}", f"student.checkpoint={'x' * 3900}"): ["seed=99999", "…: must be between 0", "no such file"],
}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0][:20])
def test_every_number_out_of_bounds_is_reported(refused, words):
    printed = refused(*words)
    assert all(sentence in printed for sentence in COMMANDS[words]), printed
    assert len(printed) < 2000


def numbers_of(made):
    """Names of the arguments that are numbers or lists of numbers."""
    for name, (annotation, _) in parameters(made).items():
        if misfit(1, annotation) == "" or misfit([1, 1], annotation) == "":
            yield name, misfit([1, 1], annotation) == ""


def limits(made, name):
    """The limits of the argument's own range."""

    def within(annotation):
        if get_origin(annotation) is Annotated:
            for note in get_args(annotation)[1:]:
                if isinstance(note, Range):
                    yield from (note.at_least, note.at_most, *note.within)
        for inner in get_args(annotation):
            yield from within(inner)

    return [bound for bound in within(parameters(made)[name][0]) if math.isfinite(bound)]


def extreme_nodes(node):
    """The node with each of its numbers at each extreme, as (name, extreme, node)."""
    made = target(node)
    for name, many in numbers_of(made):
        for value in dict.fromkeys([*EXTREMES, *limits(made, name)]):
            twisted = [value] * len(node[name] or [1]) if many else value
            yield name, value, {**node, name: twisted, **({"alpha": None} if name.endswith("_weight") else {})}


def accepted(node, name, **given):
    """Whether the node's arguments are accepted; if not, the problem must name the extreme argument."""
    if found := problems(target(node), arguments(node), given_later=given):
        assert [problem.name for problem in found] == [name], found
        return False
    return True


METHODS = [method for method in options("distillation") if method not in ("none", "sum", "mutual")]


@cache
def composed(method):
    return COMPOSER.compose(["batch_size=4", f"distillation={method}", *PAIR])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_with_extreme_numbers_is_refused_or_takes_a_finite_step(method):
    for name, value, node in extreme_nodes(composed(method)["distillation"]):
        if not accepted(node, name) or (name in parameters(Distiller) and method != "kd"):
            continue
        learner, teacher = untrained_pair({**composed(method), "distillation": node}, SHAPE, batch_size=4, images=12)
        learner.train()
        if not build(node).describe():
            continue  # all weights are 0, which validation refuses
        batch = random_batch(SHAPE, 4, learner.distiller, images=12)
        outputs = {each.reading: each(batch) for each in teacher.by_reading.values()}
        learner.step(*learner.reads(batch, outputs), Progress(epoch=0.5, epochs=1, step=0))
        assert not learner.failure, (name, value, learner.traceback)
        assert torch.isfinite(learner.close_epoch(None)).all(), (name, value)
        assert all(torch.isfinite(weights).all() for weights in learner.model.state_dict().values()), (name, value)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_an_optimizer_with_extreme_numbers_is_refused_or_takes_a_step(optimizer):
    for name, value, node in extreme_nodes(dict(compose_command([f"optimizer={optimizer}"]).optimizer)):
        if accepted(node | {"nesterov": False} if "nesterov" in node else node, name):
            layer = nn.Linear(2, 2)
            layer(torch.ones(1, 2)).sum().backward()
            recipe = build(node | {"nesterov": False} if "nesterov" in node else node)
            assert 0 <= recipe.moments <= 2
            recipe.build([layer]).step()
            assert not any(weights.isnan().any() for weights in layer.parameters()), (name, value)


@pytest.mark.parametrize("schedule", options("schedule"))
def test_a_schedule_with_extreme_numbers_is_refused_or_gives_a_number(schedule):
    for name, value, node in extreme_nodes(dict(compose_command([f"schedule={schedule}"]).schedule)):
        if accepted(node, name):
            factors = [build(node).factor(epoch, epochs) for epochs in (1, MOST) for epoch in (0.0, 0.5, epochs)]
            assert all(math.isfinite(factor) for factor in factors), (name, value)


ONE_PER_FAMILY = ["mlp_small", "keras_student", "lightnn", "resnet8", "resnet50_cifar", "vgg8", "wrn_16_1", "mobilenetv2"]
ONE_PER_FAMILY += ["shufflenetv1", "shufflenetv2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_a_network_with_extreme_numbers_is_refused_or_sketched(name):
    """Depths are tried one below the largest, which takes as long as the largest one."""
    node = without_start(compose_command([f"student={name}"]).student)
    shape, room = Shape(10, 1, 32), Room(2**34, copies=4)
    for argument, value, twisted in extreme_nodes(node):
        if argument in vars(shape) or (
            value in limits(target(node), argument) and argument in ("depth", "blocks", "convolutions")
        ):
            continue
        if accepted(twisted, argument, **vars(shape)):
            network, found = check_network("student", twisted, shape, {}, room)
            assert network is not None or [problem.name.partition(".")[0] for problem in found] == ["student"], (value, found)


def test_settings_that_exceed_the_largest_count_are_refused():
    for name, many in numbers_of(Settings):
        if many:  # class_weights, which are no counts
            continue
        largest = max(limits(Settings, name))
        assert largest < 2**32 and misfit(largest, parameters(Settings)[name][0]) == ""
        for value in (largest + 1, 2**63, 10**30, -1, 1e300):
            assert misfit(value, parameters(Settings)[name][0]).startswith("must be "), (name, value)


def test_every_random_stream_accepts_the_largest_seed(make_experiment):
    largest = 2**32 - 1
    experiment = make_experiment(f"seed={largest}", f"teacher_seed={largest}", f"dataset.split_seed={largest}")
    RandomStream(largest + preparation.AUXILIARY_SEED, torch.device("cpu"))
    assert len(experiment.data.train.epoch(largest, MOST).rows) == len(experiment.data.train)
    assert experiment.spec("baseline").key != make_experiment(f"seed={largest - 1}").spec("baseline").key


WIDE = "[200000,200000]"
TOO_LARGE = {
    ("student=mlp_small", f"student.hidden={WIDE}"): "student: with gradients and optimizer state it takes 640 GB",
    (
        f"teacher.hidden={WIDE}",
        "optimizer@teacher_optimizer=sgd",
    ): "teacher: with gradients and optimizer state it takes 480 GB",
    (
        "teacher=ensemble",
        "teacher.members=[{_target_:kdexp.models.mlp.MLP,hidden:" + WIDE + "}]",
    ): "teacher: its weights take 160 GB",
    ("distillation=mutual", "+distillation.peer._target_=kdexp.models.mlp.MLP"): "distillation.peer: with gradients",
    ("distillation=semckd", "batch_size=200000", *PAIR): "with the modules that the method adds, the student takes 2.4 TB",
    (
        "student._target_=own_networks.LooksAtValues",
        "~student.hidden",
        "+student.width=1000000000",
    ): "student: with gradients and optimizer state it takes ",
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sentence"), TOO_LARGE.items(), ids=lambda given: " ".join(given)[:40])
def test_networks_that_do_not_fit_into_memory_are_refused_with_both_sizes(words, sentence, monkeypatch):
    monkeypatch.setattr(validation, "free_memory", lambda device: 10**10)
    config = compose_command(words) if "mutual" not in words[0] else _with_peer()
    found = "; ".join(map(str, validation.validate(config)))
    assert sentence in found and "but 10 GB are free; choose a smaller network" in found


def _with_peer():
    config = compose_command(["distillation=mutual"])
    config.distillation.peer = {"_target_": "kdexp.models.mlp.MLP", "hidden": [200_000, 200_000]}
    return config


def test_a_batch_that_does_not_fit_into_memory_is_refused_before_anything_is_trained(make_experiment, monkeypatch):
    monkeypatch.setattr(preparation, "free_memory", lambda device: 10**6)
    sentence = (
        "teacher: training on batches of 900 images takes .* MB of memory, but 1 MB are free; choose a smaller batch_size"
    )
    with pytest.raises(DataUnavailable, match=sentence):
        make_experiment("batch_size=100000").make_ready()
    monkeypatch.setattr(preparation, "free_memory", lambda device: 10**8)
    make_experiment("batch_size=100000").make_ready()


def test_tensors_that_a_forward_pass_keeps_are_counted():
    """Two linear layers keep their inputs; the ReLU between them keeps its output, which is the second one's input."""
    network = copy.deepcopy(on_meta({"_target_": "kdexp.models.mlp.MLP", "hidden": [5]}, SHAPE))
    assert activation_bytes(network, SHAPE, images=7) == 4 * 7 * (64 + 5)
    assert activation_bytes(sketch_network({"_target_": "own_networks.LooksAtValues"}, SHAPE), SHAPE, images=7) == 0


QUICKLY_BOUND = ("mlp_wide", "lightnn", "resnet8x4", "wrn_16_1", "vgg8", "shufflenetv1", "shufflenetv2", "mobilenetv2_half")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *QUICKLY_BOUND,
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in options("model")
            if name not in (*QUICKLY_BOUND, "timm", "torchvision")
        ),
    ],
)
def test_no_forward_pass_keeps_more_than_the_quick_bound(name):
    shape = Shape(10, 3, 32)
    config = compose_command(["dataset=cifar10", "dataset.root=data", f"student={name}"])
    network = sketch_network(without_start(OmegaConf.to_container(config.student)), shape)
    exact, bound = activation_bytes(network, shape, 7), footprint._most_activation_bytes(network, shape, 7)
    assert 0 < exact <= bound < 100 * exact


@pytest.mark.parametrize(("size", "text"), [(4 * 10**12, "4 TB"), (3 * 10**9, "3 GB"), (2_500_000, "2.5 MB")])
def test_sizes_are_written_in_fitting_units(size, text):
    assert memory.size_text(size) == text


def test_any_network_fits_into_unlimited_room():
    assert footprint.ROOMY.shortage(on_meta({"_target_": "kdexp.models.mlp.MLP", "hidden": [2**20]}, SHAPE)) == ""
