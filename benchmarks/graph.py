"""Speed-up by graph=true and compile=true on this GPU: seconds per epoch of the CIFAR-10 tutorial's distilled students.

`python benchmarks/graph.py` prints a line per option and number of students trained together; images and teacher are random.
The fastest of `REPEATS` epochs counts; recording and compiling happen in an epoch before these.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from kdexp.configuration.compose import as_plain, compose_command
from kdexp.configuration.nodes import build
from kdexp.data.images import RawImages
from kdexp.data.shape import Shape
from kdexp.data.split import Split
from kdexp.device.precision import Precision
from kdexp.network.build import build_network
from kdexp.store.spec import LearnerSpec
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.lookup import LookupSource, choose_lookup
from kdexp.training.entry import Entry
from kdexp.training.learner import Learner
from kdexp.training.loop import Steps
from kdexp.training.prepare import prepare
from kdexp.training.recorded_steps import steps_for

IMAGES, BATCH, REPEATS = 50_000, 128, 5
WAYS = {"fast": {}, "fast compiled": {"compile": True}, "fast graph": {"graph": True}}


def company(students: int, ways: dict[str, bool]) -> tuple[Steps, list]:
    """The steps of an epoch, and this many distilled students of the tutorial."""
    config = as_plain(compose_command(["experiment=cifar10_tutorial", "distillation=kd", "dataset.root=nowhere"]))
    shape, precision = Shape(10, 3, 32), Precision.pick("auto", torch.device("cuda"), fast=True, **ways)
    precision.set()
    parts = {
        "model": config["student"],
        "method": config["distillation"],
        "optimizer": config["optimizer"],
        "schedule": config["schedule"],
    }
    numbers = {"epochs": REPEATS + 1, "batch_size": BATCH, "seed": 0, "limit_batches": None, "teacher": "theirs"}
    spec = LearnerSpec(data={}, precision=precision.label, **parts, **numbers)
    entries = [Entry("distilled", "lightnn", "kd", spec, job=str(number)) for number in range(students)]
    raw = RawImages(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), torch.arange(IMAGES) % 10)
    split = Split(raw, build(config["dataset"]), precision.device, augmented=True, memory_format=precision.memory_format)
    learners, teacher = prepare(entries, build_network(config["teacher"], shape), shape, precision, raw.labels)
    assert teacher is not None
    teacher.use(choose_lookup(teacher, split, LookupSource("", OutputCache(), None)).table)
    teacher.prepare_all(split)
    for learner in learners:
        learner.train()
    return steps_for(precision)(split, teacher, REPEATS + 1, BATCH, 0, None), learners


class Unwatched:
    """Follows nothing."""

    def step(self, learners: Sequence[Learner]) -> None:
        """Does nothing."""

    def epoch(self, learners: Sequence[Learner]) -> None:
        """Does nothing."""


def epoch_seconds(steps: Steps, learners: list, epoch: int) -> float:
    """Seconds of one epoch, until the device is done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    steps.take(learners, epoch, steps.draw(epoch), Unwatched())
    torch.cuda.synchronize()
    for learner in learners:
        learner.close_epoch(None)
        assert not learner.failure and not learner.remark, learner.failure or learner.remark
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    print(torch.cuda.get_device_name(), torch.__version__)
    for students in (1, 9):
        made = {name: company(students, ways) for name, ways in WAYS.items()}
        found = {name: [epoch_seconds(*made[name], epoch) for epoch in range(REPEATS + 1)][1:] for name in made}
        usual = min(found["fast"])
        for name, seconds in found.items():
            quickest = min(seconds)
            print(f"{students} students, {name}: {quickest:.3f} s per epoch, {usual / quickest:.2f} times as quick as fast")


if __name__ == "__main__":
    main()
