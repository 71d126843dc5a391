"""Learners of a shipped experiment on random images, ready for steps that are timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from measuring import forget_peak, peak_mb

from gpu_parts.context import Context
from kdexp.configuration.compose import Composer
from kdexp.configuration.nodes import build
from kdexp.data.images import RawImages
from kdexp.data.shape import Shape
from kdexp.data.split import Split
from kdexp.device.precision import Precision
from kdexp.network.build import STARTING, build_network
from kdexp.store.spec import LearnerSpec
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.lookup import LookupSource, choose_lookup, compute_all
from kdexp.training import recorded_steps
from kdexp.training.entry import Entry
from kdexp.training.learner import Learner
from kdexp.training.loop import Steps
from kdexp.training.prepare import prepare

FULL = 50_000
"""Images of CIFAR's training data."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    images: int
    steps: int
    epochs: int
    """Of so many steps each: the first, in which steps are recorded or compiled, and those of which the fastest counts."""
    words: tuple[str, ...] = ()


class Unwatched:
    """Follows nothing."""

    def step(self, learners: Sequence[Learner]) -> None:
        """Does nothing."""

    def epoch(self, learners: Sequence[Learner]) -> None:
        """Does nothing."""


@dataclass
class Pace:
    """Seconds per step, those of the teacher's lookup among them, and by how much the first epoch took longer."""

    step: float
    teacher: float
    first: float
    batch_size: int
    epochs: int
    outputs: str | None
    """How the teacher's outputs are looked up, None without a teacher."""

    @property
    def in_full(self) -> float:
        """Seconds of the whole training."""
        return self.step * -(-FULL // self.batch_size) * self.epochs


class Trainings:
    """Measures trainings of experiments, on images that are made once."""

    def __init__(self, context: Context, size: Size):
        self.device, self.size, self._composer = torch.device(context.device), size, Composer()
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randint(256, (size.images, 3, 32, 32), dtype=torch.uint8, generator=generator)
        self._split: tuple[Any, Split] | None = None
        if context.rehearse:
            rehearse()

    def pace(self, words: Sequence[str], role: str, way: str, students: int = 1) -> Pace:
        """Trains the teacher, or so many students together; `way` is the precision as a table shows it."""
        config = self._composer.compose([*words, "dataset.root=nowhere", *self.size.words])
        precision = precision_of(way, self.device)
        precision.set()
        split, shape = self._split_for(config, precision), Shape(build(config["dataset"]).num_classes, 3, 32)
        spec = spec_of(config, role, precision, self.size.epochs)
        entries = [Entry(role, "", "", replace(spec, seed=seed), job=str(seed)) for seed in range(students)]
        network = build_network(_network_node(config["teacher"]), shape) if role == "distilled" else None
        learners, teacher = prepare(entries, network, shape, precision, split.labels)
        outputs = _look_up(teacher, split, config["epochs"]) if teacher is not None else None
        steps = recorded_steps.steps_for(precision)(split, teacher, self.size.epochs, spec.batch_size, 0, self.size.steps)
        for learner in learners:
            learner.train()
        times = [self._epoch(steps, learners, epoch) for epoch in range(self.size.epochs)]
        fastest, lookup_seconds = min(times[1:], key=sum)
        full = config["teacher_epochs" if role == "teacher" else "epochs"]
        whole = fastest + lookup_seconds
        count, first = steps.count, sum(times[0]) - whole
        return Pace(whole / count, lookup_seconds / count, first, spec.batch_size, full, outputs)

    def _split_for(self, config: Mapping[str, Any], precision: Precision) -> Split:
        key = (precision.memory_format, config["dataset"])
        if self._split is None or self._split[0] != key:
            self._split = None  # first, so that the next one has the memory
            dataset = build(config["dataset"])
            raw = RawImages(self._images, torch.arange(len(self._images)) % dataset.num_classes)
            made = Split(raw, dataset, self.device, augmented=True, memory_format=precision.memory_format)
            self._split = (key, made)
        return self._split[1]

    def _epoch(self, steps: Steps, learners: Sequence[Learner], epoch: int) -> tuple[float, float]:
        """Seconds of the steps and of the teacher's lookup in one epoch, until the device is done."""
        images = steps.draw(epoch)
        begin = self._now()
        if steps.teacher is not None:
            steps.teacher.prepare_epoch(steps.split, images)
        middle = self._now()
        steps.take(learners, epoch, images, Unwatched())
        end = self._now()
        for learner in learners:
            learner.close_epoch(None)
            if learner.failure or learner.remark:
                raise RuntimeError(learner.failure or learner.remark)
        return end - middle, middle - begin

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def precision_of(way: str, device: torch.device) -> Precision:
    """The precision that a table calls so."""
    name, *options = way.split()
    chosen = {option: option in options for option in ("fast", "graph")}
    return Precision(name, device, compile="compiled" in options, **chosen)


def spec_of(config: Mapping[str, Any], role: str, precision: Precision, epochs: int) -> LearnerSpec:
    """The spec of a learner of a composed configuration, for the teacher or a student."""
    prefix = "teacher_" if role == "teacher" else ""
    return LearnerSpec(
        data={},
        model=_network_node(config["teacher" if role == "teacher" else "student"]),
        method=config["distillation" if role == "distilled" else "baseline"],
        optimizer=config[f"{prefix}optimizer"],
        schedule=config[f"{prefix}schedule"],
        epochs=epochs,
        batch_size=config["batch_size"],
        seed=0,
        precision=precision.label,
        limit_batches=None,
        teacher="theirs" if role == "distilled" else None,
    )


def _look_up(teacher: Teacher, split: Split, epochs: int) -> str:
    """Prepares the teacher for a training in full, as a run does; returns how its outputs are looked up."""
    lookup = choose_lookup(teacher, split, LookupSource("", OutputCache(), None), epochs)
    print(f"{lookup.kind}: {lookup.reason}")
    teacher.use(lookup.table, lookup.extra_layers)
    compute_all(teacher, split, None)
    return {"compute": "table", "views": "table of views"}.get(lookup.kind, lookup.kind)


def _network_node(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in STARTING}


def rehearse() -> None:
    """Lets steps be "recorded" on a CPU: what a graph would replay is done as it stands."""
    recorded_steps.record_graph = lambda work, _generators: work
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # its convolutions of few channels corrupt memory on some CPUs


def peak_gib(device: torch.device) -> float:
    """The most memory that PyTorch has reserved on the GPU since the last call; of the process on a CPU."""
    gc.collect()
    if device.type != "cuda":
        peak = peak_mb(device) * 1e6
        forget_peak(device)
    else:
        peak = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return peak / 2**30
