"""Compares the speed of kdexp with loops written by hand, alternating in one process.

python benchmarks/bench.py --size cpu                             # tables of all phases, and outputs/bench/bench_cpu.json
python benchmarks/bench.py --size cpu --pair crd --phase teacher kd    # augmented, as in the CRD code

tutorial    the PyTorch tutorial's loop: Pillow images, two workers, fp32, `.item()` and the teacher evaluated at every step
strong      the same with persistent workers, pinned memory, channels-last, bf16 autocast, and no `.item()`
by hand     one page of code on tensors that stay on the device, with the tricks of kdexp but none of its parts
kdexp       what the command line runs: validation, progress saved after every epoch, tests, results, tables

All train the same nets from the same weights on the same images in the same order (except augmentation), and test them. Ratios
compare times of one process, minima and medians over several turns; times of different calls are not comparable. CPU seconds
and the load of other processes stand beside each ratio, and a warning says where that load moved between turns. The phase
`startup` measures what comes before the first training step of a new process.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import startup
import torch
from load import warning
from measuring import Measured, measure, peak_flops
from ours import Ours
from peers import STRONG, TUTORIAL, Peer
from resident import Resident
from results import FOLDER, machine, print_table, write
from work import PAIRS, Work

PHASES = ("teacher", "baseline", "kd", "main", "sweep", "startup")
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
    "kdexp fast graph": ("fp32", lambda work: Ours(work, ["fast=true", "graph=true"])),
    "kdexp bf16 fast graph": ("bf16", lambda work: Ours(work, ["precision=bf16", "fast=true", "graph=true"])),
}
"""Participants, and their precision."""


def main() -> None:
    """Measures, prints and writes."""
    asked = arguments()
    for phase in asked.phase:
        images, epochs, alone, turns = SIZES[asked.size]
        epochs = alone if phase == "teacher" else epochs
        images, epochs, turns = asked.images or images, asked.epochs or epochs, asked.turns or turns
        title = f"{asked.pair}, {phase}: {images} images, {epochs} epochs, {turns} turns"
        with TemporaryDirectory() as folder:
            work = Work(PAIRS[asked.pair], phase, images, images // 5, epochs, asked.device, Path(folder))
            found = startup.compare(work, turns) if phase == "startup" else compare(work, asked.only, turns)
        results = {"command": shlex.join(["python", "benchmarks/bench.py", *sys.argv[1:]]), **machine(asked.device), **found}
        (startup.print_table if phase == "startup" else print_table)(title, results)
        write(asked.output, results, phase=phase)
    print(f"written to {asked.output}")


def arguments() -> argparse.Namespace:
    """The command line, with the device, the participants and the file that follow from it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--phase", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--pair", choices=sorted(PAIRS), default="tutorial")
    parser.add_argument("--size", choices=sorted(SIZES), default="ci", help="ci and cpu run on the CPU, gpu on CUDA")
    parser.add_argument("--turns", type=int, help="of every participant, instead of the size's")
    parser.add_argument("--images", type=int, help="to train on, instead of the size's")
    parser.add_argument("--epochs", type=int, help="instead of the size's")
    parser.add_argument("--only", nargs="+", choices=PARTICIPANTS, metavar="WHO", help=", ".join(PARTICIPANTS))
    parser.add_argument("--output", type=Path, help=f"a JSON file in which other phases stay (default: in {FOLDER}/)")
    asked = parser.parse_args()
    asked.device = torch.device("cuda" if asked.size == "gpu" else "cpu")
    able = takes_part(asked.device)
    if unable := [who for who in asked.only or [] if who not in able]:
        parser.error(f"{', '.join(unable)}: graphs are recorded on CUDA only (--size gpu)")
    asked.only = asked.only or able
    name = f"bench_{asked.size}.json" if asked.pair == "tutorial" else f"bench_{asked.pair}_{asked.size}.json"
    asked.output = asked.output or FOLDER / name
    return asked


def takes_part(device: torch.device) -> list[str]:
    """The participants that run on that device."""
    return [who for who in PARTICIPANTS if device.type == "cuda" or "graph" not in who.split()]


def compare(work: Work, names: Sequence[str], turns: int, *, matmul_seconds: float = 0.1) -> dict[str, Any]:
    """The turns of every participant, after a short warm-up that is not counted.

    What the machine can do is found out by matrix products of at least `matmul_seconds`.
    """
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
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    peaks = {name: peak_flops(work.device, dtype, matmul_seconds) for name, dtype in types.items()}
    rows = {who: row(work, last[who], measured[who], peaks[PARTICIPANTS[who][0]]) for who in participants}
    for values in rows.values():
        values |= beside(values, rows.get("tutorial"))
    return {
        "images": work.images,
        "epochs": work.epochs,
        "batch_size": work.pair.batch_size,
        "turns": turns,
        "peak_gflops": {name: round(value / 1e9, 1) for name, value in peaks.items()},
        "warning": warning(turn.load.others for turns_of in measured.values() for turn in turns_of),
        "rows": rows,
    }


def row(work: Work, participant: Participant, turns: list[Measured], peak: float) -> dict[str, Any]:
    """The row of one participant."""
    seconds = [turn.seconds for turn in turns]
    return {
        "seconds": [round(value, 4) for value in seconds],
        "cpu_seconds": [round(turn.load.cpu_seconds, 2) for turn in turns],
        "others": [turn.load.others and round(turn.load.others, 3) for turn in turns],
        "load_average": [round(turn.load.average, 2) for turn in turns],
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
        "ratio_of_cpu_seconds": round(min(tutorial["cpu_seconds"]) / min(values["cpu_seconds"]), 2),
        "loss_difference": apart,
    }


if __name__ == "__main__":
    main()
