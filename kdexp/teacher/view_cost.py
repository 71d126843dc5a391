"""What a teacher's outputs for augmented images cost: looked up in a table of views, or computed in every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from kdexp.data.split import Split
from kdexp.device.cuda_graphs import cudnn_benchmark, record_graph
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.output_table import LOGITS, OutputTable

BATCHES = 8
"""Batches that are measured each way."""


@dataclass(frozen=True)
class ViewCosts:
    """Seconds for a batch: computed in every step, and with a table, on average over the epochs of a training."""

    live: float
    table: float

    def __str__(self) -> str:
        return f"a batch takes {_milliseconds(self.live)} in the step, {_milliseconds(self.table)} with a table of views"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def new_share(views: int, epochs: int, missing: float = 1.0) -> float:
    """The expected share of views that an epoch is the first to show, on average over epochs that draw views at random.

    `missing` is the share of all views that the table lacks before.
    """
    unseen = 1 - 1 / views
    return missing * views * (1 - unseen**epochs) / epochs


def measure(teacher: Teacher, split: Split, table: OutputTable, epochs: int) -> ViewCosts:
    """Measures both ways on a few batches of the first epoch; what they put into the table stays there."""
    device, size = split.labels.device, teacher.batch_size
    shown = split.epoch(0, 0, BATCHES * size)
    batches = -(-len(shown.rows) // size)
    missing = table.missing_share(LOGITS)
    image = next(iter(split.show(shown, size)))
    with cudnn_benchmark(teacher.precision.graph):
        teacher.ask(image)  # libraries set themselves up
    run = _in_a_step(teacher, split, image)
    run()
    live = seconds_of(lambda: [run() for _ in range(batches)], device) / batches

    def look_up() -> None:
        table.compute_missing(split, shown, [LOGITS], teacher.ask, size)

    lacking = table.missing_share(LOGITS, shown)
    first = seconds_of(look_up, device) / batches
    known = seconds_of(look_up, device) / batches
    new = max(known, known + (first - known) / lacking) if lacking else live
    share = new_share(table.views, epochs, missing)
    return ViewCosts(live, share * new + (1 - share) * known)


def _in_a_step(teacher: Teacher, split: Split, image: torch.Tensor) -> Callable[[], object]:
    """What runs the teacher on a batch as a training step would: replayed where steps are recorded whole."""
    if teacher.precision.graph and split.static:
        with suppress(Exception):  # then its steps can't be recorded either
            return record_graph(lambda: _ignored(teacher.ask(image)), [])
    return lambda: teacher.ask(image)


def _ignored(_: object) -> None:
    pass


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the work takes on host and device together."""
    wait = torch.get_device_module(device).synchronize
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
