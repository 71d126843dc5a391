"""Compares the speed of kdexp with loops written by hand, alternating in one process.

python benchmarks/bench.py --phase teacher baseline kd main sweep --size cpu    # a table, and benchmarks/bench_cpu.json
python benchmarks/bench.py --pair crd --phase teacher kd --size cpu             # augmented, as in the CRD code

tutorial    the PyTorch tutorial's loop: Pillow images, two workers, fp32, `.item()` and the teacher evaluated at every step
strong      the same with persistent workers, pinned memory, channels-last, bf16 autocast, and no `.item()`
by hand     one page of code on tensors that stay on the device, with the tricks of kdexp but none of its parts
kdexp       what the command line runs: validation, progress saved after every epoch, tests, results, tables

All train the same nets from the same weights on the same images in the same order (except augmentation), and test them. Ratios
compare times of one process, minima and medians over several turns; times of different calls are not comparable.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import Measured, measure, peak_flops
from ours import Ours
from peers import STRONG, TUTORIAL, Peer
from resident import Resident
from rich import box
from rich.console import Console
from rich.table import Table
from work import PAIRS, Work

PHASES = ("teacher", "baseline", "kd", "main", "sweep")
SIZES = {"ci": (640, 4, 4, 1), "cpu": (1280, 10, 2, 3), "gpu": (50_000, 10, 10, 3)}
"""Training images, epochs, epochs of the phase `teacher` (whose time is proportional to them), turns."""
COMPARED = slice(10, 20)
"""Number of steps whose mean loss is compared with that of the tutorial's loop."""

Participant = Peer | Resident | Ours
PARTICIPANTS: dict[str, tuple[str, Callable[[Work], Participant]]] = {
    "tutorial": ("fp32", lambda work: Peer(work, TUTORIAL)),
    "strong": ("bf16", lambda work: Peer(work, STRONG)),
    "by hand": ("fp32", Resident),
    "kdexp": ("fp32", lambda work: Ours(work, ["fast=false", "graph=false"])),
    "kdexp fast": ("fp32", lambda work: Ours(work, ["fast=true", "graph=false"])),
    "by hand bf16": ("bf16", lambda work: Resident(work, fast=True, bf16=True)),
    "kdexp bf16 fast": ("bf16", lambda work: Ours(work, ["precision=bf16", "fast=true", "graph=false"])),
}
"""Participants, and their precision."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phase", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--pair", choices=sorted(PAIRS), default="tutorial")
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    parser.add_argument("--turns", type=int, help="of every participant, instead of the size's")
    parser.add_argument("--images", type=int, help="to train on, instead of the size's")
    parser.add_argument("--epochs", type=int, help="instead of the size's")
    parser.add_argument("--only", nargs="+", choices=PARTICIPANTS, default=list(PARTICIPANTS), metavar="WHO")
    parser.add_argument("--output", type=Path, help="a JSON file in which other phases are kept")
    asked = parser.parse_args()
    name = f"bench_{asked.size}.json" if asked.pair == "tutorial" else f"bench_{asked.pair}_{asked.size}.json"
    path = asked.output or Path(__file__).with_name(name)
    device = torch.device("cuda" if asked.size == "gpu" else "cpu")
    for phase in asked.phase:
        images, epochs, alone, turns = SIZES[asked.size]
        epochs = alone if phase == "teacher" else epochs
        images, epochs, turns = asked.images or images, asked.epochs or epochs, asked.turns or turns
        with TemporaryDirectory() as folder:
            work = Work(PAIRS[asked.pair], phase, images, images // 5, epochs, device, Path(folder))
            found = compare(work, asked.only, turns)
        told = {"command": shlex.join(["python", "benchmarks/bench.py", *sys.argv[1:]]), **machine(device), **found}
        print_table(f"{asked.pair}, {phase}: {images} images, {epochs} epochs, {turns} turns", told)
        write(path, phase, told)


def compare(work: Work, names: Sequence[str], turns: int) -> dict[str, Any]:
    """The turns of every participant, after a short warm-up that is not counted."""
    participants = {who: PARTICIPANTS[who][1] for who in names}
    short = replace(work, images=2 * work.pair.batch_size, tests=64, epochs=1)
    for make in participants.values():
        make(short).run()
    measured: dict[str, list[Measured]] = {who: [] for who in participants}
    last: dict[str, Participant] = {}
    for _ in range(turns):
        for who, make in participants.items():
            last[who] = make(work)
            measured[who].append(measure(last[who].run, work.device))
    peaks = {name: peak_flops(work.device, dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    rows = {who: row(work, last[who], measured[who], peaks[PARTICIPANTS[who][0]]) for who in participants}
    for values in rows.values():
        values |= beside(values, rows.get("tutorial"))
    return {
        "images": work.images,
        "epochs": work.epochs,
        "batch_size": work.pair.batch_size,
        "turns": turns,
        "peak_gflops": {name: round(value / 1e9, 1) for name, value in peaks.items()},
        "rows": rows,
    }


def row(work: Work, participant: Participant, turns: list[Measured], peak: float) -> dict[str, Any]:
    """The row of one participant."""
    seconds = [turn.seconds for turn in turns]
    return {
        "seconds": [round(value, 4) for value in seconds],
        "images_per_second_best": round(work.trained_images / min(seconds), 1),
        "images_per_second_median": round(work.trained_images / median(seconds), 1),
        "model_flops_utilisation": round(work.useful_flops / min(seconds) / peak, 4),
        "peak_mb": round(max(turn.peak_mb for turn in turns)),
        "bytes_kept": participant.bytes_kept,
        "transfers_per_epoch": round(turns[-1].transfers / work.trained_epochs, 2),
        "teacher_images": participant.teacher_images,
        "loss": compared_loss(work, participant.losses),
    }


def compared_loss(work: Work, losses: list[float]) -> float | None:
    """Mean loss of the compared steps, from losses of steps or of epochs; None if these steps don't end with an epoch."""
    steps = work.steps
    if len(losses) == work.epochs:
        if COMPARED.start % steps or COMPARED.stop % steps:
            return None
        losses = [loss for loss in losses for _ in range(steps)]
    chosen = losses[COMPARED]
    return sum(chosen) / len(chosen) if len(chosen) == COMPARED.stop - COMPARED.start else None


def beside(values: dict[str, Any], tutorial: dict[str, Any] | None) -> dict[str, Any]:
    """Speed-up over the tutorial's loop, and difference to its loss."""
    if tutorial is None:
        return {}
    mine, theirs = values["seconds"], tutorial["seconds"]
    losses = (values["loss"], tutorial["loss"])
    apart = None if None in losses or not tutorial["loss"] else abs(losses[0] - losses[1]) / abs(losses[1])
    return {
        "ratio_of_minima": round(min(theirs) / min(mine), 2),
        "ratio_of_medians": round(median(theirs) / median(mine), 2),
        "loss_difference": apart,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Description of the machine."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}


def cpu_name() -> str:
    """Name of the processor, from Linux."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def print_table(title: str, told: dict[str, Any]) -> None:
    """The rows of a phase."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    heads = [
        "",
        "images/s",
        "median",
        "ratio",
        "of medians",
        "MFU %",
        "peak MB",
        "kept MB",
        "transfers",
        "teacher asked",
        "loss apart",
    ]
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    for who, values in told["rows"].items():
        apart = values.get("loss_difference")
        table.add_row(
            who,
            f"{values['images_per_second_best']:,.0f}",
            f"{values['images_per_second_median']:,.0f}",
            f"{values.get('ratio_of_minima', '–')}",
            f"{values.get('ratio_of_medians', '–')}",
            f"{100 * values['model_flops_utilisation']:.1f}",
            f"{values['peak_mb']:,}",
            f"{values['bytes_kept'] / 1e6:.1f}",
            f"{values['transfers_per_epoch']:g}",
            f"{values['teacher_images']:,}",
            "–" if apart is None else f"{apart:.1e}",
        )
    Console(width=140).print(table)


def write(path: Path, phase: str, told: dict[str, Any]) -> None:
    """Writes a phase into the file and keeps the other phases there."""
    phases = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**phases, phase: told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
