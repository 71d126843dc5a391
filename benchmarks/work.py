"""The work that a benchmark measures: the same training for all participants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from noise import Noise
from torch import Tensor, nn

from kdexp.configuration.compose import Composer
from kdexp.configuration.nodes import build
from kdexp.data.images import RawImages
from kdexp.data.shape import Shape
from kdexp.data.split import Split
from kdexp.network.build import build_network
from kdexp.network.cost import multiply_adds

CONF = Path(__file__).with_name("conf")
COMPOSER = Composer(str(CONF))
SEED = 42
TEMPERATURES, ALPHAS = (1.0, 4.0, 8.0), (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Pair:
    """Two networks and their training; `workers` is that of the loader in the source."""

    teacher: str
    student: str
    classes: int
    batch_size: int
    words: tuple[str, ...]
    augmented: bool
    top5: bool
    workers: int


PAIRS = {
    "tutorial": Pair("deepnn", "lightnn", 10, 128, ("optimizer=adam",), augmented=False, top5=False, workers=2),
    "crd": Pair("resnet32x4", "resnet8x4", 100, 64, ("optimizer=sgd",), augmented=True, top5=True, workers=8),
}


@dataclass(frozen=True)
class Point:
    """One student: labels only, or a method of kdexp with its arguments."""

    method: str
    temperature: float = 1.0
    alpha: float | None = None

    @property
    def words(self) -> list[str]:
        """The overrides that choose it."""
        if self.alpha is None:
            return [f"distillation={self.method}"]
        return [
            f"distillation={self.method}",
            f"distillation.temperature={self.temperature}",
            f"distillation.alpha={self.alpha}",
        ]


CROSS_ENTROPY = Point("none")
SOFT_TARGETS = Point("kd", 4.0, 0.1)


@dataclass(frozen=True)
class Work:
    """A phase of the comparison at one size, with an empty folder of its own."""

    pair: Pair
    phase: str
    images: int
    tests: int
    epochs: int
    device: torch.device
    folder: Path
    temperatures: tuple[float, ...] = TEMPERATURES
    alphas: tuple[float, ...] = ALPHAS

    @cached_property
    def points(self) -> list[Point]:
        """The students of this phase, all with the same seed."""
        method = SOFT_TARGETS if self.pair.augmented else Point("hint")
        phases = {"teacher": [], "baseline": [CROSS_ENTROPY], "kd": [method], "main": [CROSS_ENTROPY, method]}
        sweep = [Point("kd", temperature, alpha) for temperature in self.temperatures for alpha in self.alphas]
        return phases.get(self.phase, [CROSS_ENTROPY, *sweep])

    @property
    def trains_teacher(self) -> bool:
        """Whether training the teacher is part of it; otherwise its weights are given."""
        return self.phase in ("teacher", "main")

    @property
    def trained_images(self) -> int:
        """Number of images in all trainings together."""
        return self.images * self.trained_epochs

    @property
    def trained_epochs(self) -> int:
        """Epochs of all trainings together."""
        return self.epochs * (len(self.points) + self.trains_teacher)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.images // self.pair.batch_size)

    @property
    def useful_flops(self) -> float:
        """Operations of all trainings (a backward pass counts twice) and of the teacher once per image, without views."""
        macs = {
            role: macs_of(name, self.shape) for role, name in (("teacher", self.pair.teacher), ("student", self.pair.student))
        }
        taught = any(point.method != "none" for point in self.points)
        trained = self.epochs * (macs["student"] * len(self.points) + macs["teacher"] * self.trains_teacher)
        return 2.0 * self.images * (3 * trained + macs["teacher"] * taught)

    @cached_property
    def shape(self) -> Shape:
        """Shape of the images."""
        return Shape(self.pair.classes, 3, 32)

    @cached_property
    def overrides(self) -> list[str]:
        """Overrides of every phase."""
        pair = self.pair
        data = [f"dataset.images={self.images}", f"dataset.tests={self.tests}", f"dataset.num_classes={pair.classes}"]
        data += ["dataset.crop_padding=4", "dataset.flip=true"] if pair.augmented else []
        nets = [f"teacher={pair.teacher}", f"student={pair.student}", *pair.words, f"batch_size={pair.batch_size}"]
        given = [] if self.trains_teacher else [f"teacher.checkpoint={self.teacher_file}"]
        seeds = [f"seed={SEED}", f"teacher_seed={SEED}", f"epochs={self.epochs}", f"device={self.device.type}"]
        return ["dataset=noise", *data, *nets, *given, *seeds]

    @cached_property
    def dataset(self) -> Noise:
        """The data set, built by kdexp."""
        return build(COMPOSER.compose(self.overrides)["dataset"])

    @cached_property
    def raw(self) -> tuple[RawImages, RawImages]:
        """Training and test images, uint8 [N, C, H, W]."""
        return self.dataset.read()

    @cached_property
    def orders(self) -> list[list[int]]:
        """Rows of every epoch in kdexp's order, so that losses can be compared step by step."""
        split = Split(self.raw[0], self.dataset, torch.device("cpu"), augmented=True)
        return [split.epoch(SEED, epoch).rows.tolist() for epoch in range(self.epochs)]

    @cached_property
    def teacher_weights(self) -> dict[str, Tensor]:
        """Weights of the given teacher, untrained, since speed does not depend on them."""
        torch.manual_seed(SEED)
        return network(self.pair.teacher, self.shape).state_dict()

    @cached_property
    def teacher_file(self) -> Path:
        """A file with these weights."""
        path = self.folder / "teacher.pt"
        torch.save(self.teacher_weights, path)
        return path


def network(name: str, shape: Shape) -> nn.Module:
    """A newly initialised network of kdexp."""
    return build_network(_node(name), shape)


@cache
def _node(name: str) -> dict[str, Any]:
    node = COMPOSER.compose([f"student={name}"])["student"]
    return {key: value for key, value in node.items() if key != "checkpoint"}


def macs_of(name: str, shape: Shape) -> int:
    """Multiply-adds of one forward pass."""
    return multiply_adds(network(name, shape), torch.zeros(1, shape.in_channels, 32, 32))
