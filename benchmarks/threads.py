"""Does a second thread pay? Training steps of small and large networks with one thread and with all, in turns.

    python benchmarks/threads.py

`kdexp.device.threads` takes its rule from this: run it on a quiet machine.
"""

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from kdexp.configuration.compose import as_plain, compose_command
from kdexp.configuration.nodes import build
from kdexp.data.shape import Shape
from kdexp.device.threads import MOST, WORTH_SHARING
from kdexp.network.build import build_network
from kdexp.network.cost import multiply_adds

CASES = {
    "digits": [("mlp_small", 32), ("mlp_wide", 32), ("mlp_wide", 128), ("mlp_wide", 512), ("resnet8", 32), ("resnet14", 32)],
    "mnist": [("keras_student", 32), ("keras_teacher", 32)],
    "cifar10": [("lightnn", 8), ("lightnn", 32), ("lightnn", 128), ("resnet8", 4), ("resnet8", 16), ("resnet20", 16)],
}
TURNS, SECONDS = 8, 0.05
"""Turns per number of threads, and the time that each takes at least."""


def training_step(dataset: str, student: str, batch_size: int) -> tuple[Callable[[], None], int]:
    """A training step on random images, and the multiply-adds of its forward pass."""
    root = [] if dataset == "digits" else ["dataset.root=data"]  # nothing is read from there
    config = as_plain(compose_command([f"dataset={dataset}", f"student={student}", *root]))
    data = build(config["dataset"])
    shape = Shape(data.num_classes, data.in_channels, data.image_size)
    network = build_network(config["student"], shape).train()
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.randn_like(shape.probe("cpu", images=batch_size))
    labels = torch.randint(shape.num_classes, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step, batch_size * multiply_adds(network, images[:1])


def milliseconds(step: Callable[[], None]) -> list[float]:
    """Median times of a step with one thread and with all of them."""
    times: dict[int, list[float]] = {1: [], MOST: []}
    for turn in range(TURNS + 1):
        for threads, measured in times.items():
            torch.set_num_threads(threads)
            start, steps = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS:
                step()
                steps += 1
            if turn:  # the first one warms up
                measured.append(1e3 * (time.perf_counter() - start) / steps)
    return [statistics.median(measured) for measured in times.values()]


if __name__ == "__main__":
    table = Table("data", "network", "batch", "work", "1 thread", f"{MOST} threads", "speed-up", "chosen", box=None)
    for dataset, cases in CASES.items():
        for student, batch_size in cases:
            step, work = training_step(dataset, student, batch_size)
            one, most = milliseconds(step)
            chosen = MOST if work >= WORTH_SHARING else 1
            shown = f"{work / 1e6:.1f} M", f"{one:.2f} ms", f"{most:.2f} ms", f"{one / most:.2f}×", str(chosen)
            table.add_row(dataset, student, str(batch_size), *shown)
    Console().print(table)
