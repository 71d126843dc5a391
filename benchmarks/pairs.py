"""A student, its method and an untrained teacher for training steps without a data set."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import Tensor

from kdexp.configuration.nodes import target
from kdexp.data.batch import Batch, Unlabelled
from kdexp.data.shape import Shape
from kdexp.data.views import VIEWS, WEAK
from kdexp.device.precision import Precision
from kdexp.distillation.base import Distiller
from kdexp.network.build import STARTING, build_network
from kdexp.store.spec import LearnerSpec
from kdexp.teacher.frozen import Teacher
from kdexp.training.entry import Entry
from kdexp.training.learner import Learner
from kdexp.training.prepare import prepare

AVERAGING = {"_target_": "kdexp.training.averaging.ExponentialAveraging", "decay": 0.999, "warm_up": True}
"""The moving average for methods that need one."""


def untrained_pair(config: DictConfig, shape: Shape, batch_size: int, images: int = 200) -> tuple[Learner, Teacher]:
    """The distilled learner of a composed configuration and its teacher, both freshly initialised, fp32 on the CPU.

    The method is told that it will see so many images, and has the moving average that it needs.
    """
    spec = LearnerSpec(
        data={},
        model={name: value for name, value in config["student"].items() if name not in STARTING},
        method=config["distillation"],
        optimizer=config["optimizer"],
        schedule=config["schedule"],
        epochs=1,
        batch_size=batch_size,
        seed=0,
        precision="fp32",
        limit_batches=None,
        teacher=None,
        averaging=AVERAGING if target(config["distillation"]).needs_average else None,
    )
    precision = Precision.pick("fp32", torch.device("cpu"), fast=False)
    network = build_network(config["teacher"], shape)
    labels = torch.arange(images) % shape.num_classes
    (learner,), teacher = prepare([Entry("distilled", "", "", spec)], network, shape, precision, labels, images)
    assert teacher is not None
    return learner, teacher


def random_batch(shape: Shape, batch_size: int, method: Distiller | None = None, images: int = 50_000) -> Batch:
    """The first images of a random data set with alternating classes; every view but `weak` shows other random images.

    Next to them are the unlabelled ones that a method reads, rows of so many `images`.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(images: int) -> Tensor:
        return torch.rand(images, shape.in_channels, shape.image_size, shape.image_size, generator=generator)

    image, index, other = drawn(batch_size), torch.arange(batch_size), drawn(batch_size)
    views = {view: other for view in VIEWS if view != WEAK}
    unlabelled = None
    if method is not None and method.unlabelled:
        rows = torch.arange(method.unlabelled_ratio * batch_size) % images
        unlabelled = Unlabelled(rows, {view: drawn(len(rows)) for view in method.unlabelled})
    share = torch.tensor([0.75])
    return Batch(image, index % shape.num_classes, index, views=views, share=share, unlabelled=unlabelled)
