"""The default run, plain and with recorded steps: does it work, and does it find the same?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_parts.command import kdexp, losses, table
from gpu_parts.context import Context, Item, Row

SHORT = ["epochs=2", "limit_batches=3", "num_threads=1"]


def items(context: Context) -> Iterator[Item]:
    """Plain, then with other ways to compute."""
    others = ["fast=true"] if context.rehearse else ["graph=true", "precision=fp32", "precision=fp32 graph=true"]
    shared = [f"device={context.device}", "diagnosis=never", *(SHORT if context.rehearse else [])]
    plain: dict[tuple[str, int], float] = {}
    for way in ("", *others):
        yield Item({"command": f"kdexp {way}".strip()}, partial(run, [*shared, *way.split()], plain))


def run(words: list[str], plain: dict[tuple[str, int], float]) -> Row:
    """Times, accuracies, and the distance to the losses of the first run, which it fills in."""
    with TemporaryDirectory() as outputs:
        begin = time.perf_counter()
        folder = kdexp(words, Path(outputs))
        seconds = time.perf_counter() - begin
        found, rows = losses(folder), table(folder)
    if not plain:
        plain.update(found)
    accuracies = {f"{role} %": 100 * row["test_top1"] for role, row in rows.items()}
    return {
        "s": seconds,
        "training s": sum(row["train_seconds"] for row in rows.values()),
        **accuracies,
        "loss apart": max(abs(found[place] - plain[place]) / abs(plain[place]) for place in plain),
    }
