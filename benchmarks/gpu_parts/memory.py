"""Jobs of shipped experiments where PyTorch may use no more memory than on a GPU with 4 GB."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gpu_parts.command import NOISE, kdexp, table
from gpu_parts.context import Context, Item, Row
from gpu_parts.training import peak_gib

LIMIT = 3.5 * 2**30
CASES = {
    "cifar10_tutorial": (10, []),
    "crd_resnet32x4_resnet8x4": (100, ["distillation=crd"]),
    "kim2021_wrn_16_4_wrn_16_2": (100, []),
    "simkd_resnet110x2_resnet110": (100, ["distillation=simkd"]),
}
"""Experiments with their number of classes, and methods that need much memory."""


def items(context: Context) -> Iterator[Item]:
    """One per experiment."""
    device = torch.device(context.device)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(LIMIT / torch.cuda.get_device_properties(device).total_memory)
    for experiment in list(CASES)[: 1 if context.rehearse else None]:
        yield Item({"experiment": experiment}, partial(limited, experiment, context))


def limited(experiment: str, context: Context) -> Row:
    """A whole job of few steps: data, teacher, baseline, distilled student, tests; the default options."""
    (classes, method), device = CASES[experiment], torch.device(context.device)
    data = ["dataset=noise", f"dataset.num_classes={classes}", "dataset.images=50000", "dataset.tests=10000"]
    data += ["dataset.crop_padding=4", "dataset.flip=true"] if classes == 100 else []
    length = ["epochs=1", "teacher_epochs=1", "limit_batches=20"]
    if context.rehearse:
        data[2:4] = ["dataset.images=16", "dataset.tests=8"]
        length += ["batch_size=8", "student=lightnn", "teacher=lightnn", "num_threads=1"]
    words = [*NOISE, f"experiment={experiment}", *method, *data, *length, "published=null", "diagnosis=never"]
    peak_gib(device)
    with TemporaryDirectory() as outputs:
        rows = table(kdexp([*words, f"device={context.device}"], Path(outputs)))
    return {
        "networks": len(rows),
        "training s": sum(row["train_seconds"] for row in rows.values()),
        "limit GiB": LIMIT / 2**30 if device.type == "cuda" else None,
        "peak GiB": peak_gib(device),
    }
