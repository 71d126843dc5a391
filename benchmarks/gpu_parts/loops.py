"""The PyTorch tutorial's three loops against kdexp's: `benchmarks/bench.py` at a length that a look at a GPU allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import bench
import torch
from work import PAIRS, Work

from gpu_parts.context import Context, Item, Row

WHO = ("tutorial", "strong", "kdexp", "kdexp fast graph", "kdexp bf16 fast graph")
PHASES = ("kd", "baseline", "teacher")
IMAGES, EPOCHS = 50_000, 2


def items(context: Context) -> Iterator[Item]:
    """One per phase; all participants of a phase belong together."""
    for phase in PHASES:
        yield Item({"phase": phase}, partial(compared, phase, context))


def compared(phase: str, context: Context) -> list[Row]:
    """A row per participant."""
    pair, device = PAIRS["tutorial"], torch.device(context.device)
    with TemporaryDirectory() as folder:
        if context.rehearse:
            work = Work(replace(pair, batch_size=8, workers=0), phase, 16, 8, 1, device, Path(folder))
            found = bench.compare(work, WHO[:3:2], turns=1, matmul_seconds=1e-4)
        else:
            work = Work(pair, phase, IMAGES, IMAGES // 5, EPOCHS, device, Path(folder))
            found = bench.compare(work, WHO, turns=1)
    if found["warning"]:
        print(f"warning: {found['warning']}")
    return [row_of(who, values) for who, values in found["rows"].items()]


def row_of(who: str, values: Row) -> Row:
    """The figures that fit a page."""
    others = values["others"][0]
    return {
        "who": who,
        "s": min(values["seconds"]),
        "images/s": values["images_per_second_best"],
        "times as fast": values["ratio_of_minima"],
        "CPU s": min(values["cpu_seconds"]),
        "others %": None if others is None else 100 * others,
        "peak MB": values["peak_mb"],
        "loss apart": values["loss_difference"],
    }
