"""A published pair trained in full, seed after seed, beside its published accuracies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpu_parts.command import NOISE
from gpu_parts.context import Context, CutOff, Item, Row
from gpu_parts.process import CUT_OFF, python, run

WORDS = ["experiment=kim2021_wrn_16_4_wrn_16_2", "sweep=kim2021_row", "hydra/launcher=lockstep", "diagnosis=never"]
FAST = ["precision=bf16", "fast=true", "graph=true"]
TINY = [
    *(*NOISE, "dataset=noise", "dataset.num_classes=100", "dataset.images=16", "dataset.tests=8", "dataset.crop_padding=4"),
    *("student=resnet8", "teacher=resnet8", "batch_size=8", "epochs=2", "schedule.milestones=[1]", "published=null"),
    *("teacher_schedule.milestones=[1]", "protocol=kim2021", "distillation=mse_logits", "num_threads=1"),
]
SEEDS = (0, 1, 2)
STOPPING = 20
"""Seconds that kdexp has to save its progress and end."""


def items(context: Context) -> Iterator[Item]:
    """One per number of seeds: each trains one seed more, and its table has all that are finished."""
    outputs = context.folder / "pair"
    words = [*WORDS, f"device={context.device}", f"output_dir={outputs}"]
    words += TINY if context.rehearse else [*FAST, f"dataset.root={context.data}"]
    seeds = [str(seed) for seed in (SEEDS[:1] if context.rehearse else SEEDS)]
    failures: list[str] = []
    for count in range(1, len(seeds) + 1):
        if not failures:
            chosen = f"seed={','.join(seeds[:count])}"
            yield Item({}, partial(trained, [*words, chosen], outputs, context, failures), replaces=True)


def trained(words: list[str], outputs: Path, context: Context, failures: list[str]) -> list[Row]:
    """Runs the sweep, in which what the store has is not trained again; returns the rows of its table.

    Raises `CutOff`, or `RuntimeError` with the last line of what the command printed, which is also added to `failures`.
    """
    log = context.folder / "logs" / "pair_command.txt"
    end = run(python("kdexp", *words), context.left() - STOPPING, log=log, grace=STOPPING - 5)
    if end == CUT_OFF:
        learners = outputs / "store" / "learner"
        finished, half = len(list(learners.glob("*/result.json"))), len(list(learners.glob("*.progress")))
        raise CutOff(f"{words[-1]} ({finished} networks are finished, {half} half trained; the same command goes on)")
    if end:
        failures.append(([end, *filter(None, map(str.strip, log.read_text().splitlines()))])[-1])
        raise RuntimeError(failures[-1])
    newest = max(outputs.glob("sweeps/*/sweep.json"), key=lambda path: path.stat().st_mtime_ns)
    return [figures(values) for table in json.loads(newest.read_text())["tables"] for values in table["rows"]]


def figures(values: Row) -> Row:
    """A row of the sweep's table as this page shows it."""
    return {
        "role": values["role"],
        "method": values["method"],
        "temperature": values["settings"].get("distillation.temperature") if values["role"] == "distilled" else None,
        "seeds": len(values["seeds"]),
        "test %": percent(values["test_mean"]),
        "std": percent(values["test_std"]),
        "published %": values["published"],
    }


def percent(share: float | None) -> float | None:
    """A share in percent."""
    return None if share is None else 100 * share
