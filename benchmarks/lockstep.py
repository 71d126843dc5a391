"""Cost of an additional job in a sweep that trains its jobs together, and of repeating a finished sweep.

python benchmarks/lockstep.py            # prints results, and writes them to outputs/bench/lockstep.json

The unit is a single student in the PyTorch tutorial's loop, without a teacher, measured alternately in the same process.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from ours import Ours
from peers import TUTORIAL, Peer
from results import FOLDER, machine, write
from work import PAIRS, Work

PRECISIONS = {"fp32": [], "fp32 fast": ["fast=true"], "bf16 fast": ["precision=bf16", "fast=true"]}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=FOLDER / "lockstep.json")
    asked = parser.parse_args()
    device = torch.device("cpu")
    with TemporaryDirectory() as folder:
        work = Work(PAIRS["tutorial"], "sweep", asked.images, asked.images // 5, asked.epochs, device, Path(folder))
        told = {"command": "python benchmarks/lockstep.py", **machine(device), **measured(work, asked.turns)}
    write(asked.output, told)
    print(json.dumps(told, indent=1))


def measured(work: Work, turns: int) -> dict:
    """Seconds per epoch, the minimum of several turns."""
    lone = replace(work, phase="baseline", epochs=2)
    single = replace(work, temperatures=work.temperatures[:1], alphas=work.alphas[:1])
    alone, first, all_points, again = [], {}, {}, {}
    for _ in range(turns):
        alone.append(seconds(Peer(lone, TUTORIAL)) / lone.epochs)
        for name, words in PRECISIONS.items():
            launched = [*words, "hydra/launcher=lockstep"]
            first.setdefault(name, []).append(seconds(Ours(single, launched)) / work.epochs)
            sweep = Ours(work, launched)
            all_points.setdefault(name, []).append(seconds(sweep) / work.epochs)
            sweep.teacher_images = 0
            again.setdefault(name, []).append(seconds(sweep))
            if sweep.teacher_images:
                raise RuntimeError(f"the teacher was asked about {sweep.teacher_images} images of a finished sweep")
    points = len(work.points) - 1
    further = {name: (min(all_points[name]) - min(first[name])) / (points - 1) for name in PRECISIONS}
    return {
        "images": work.images,
        "epochs": work.epochs,
        "points": points,
        "lone_student_seconds_per_epoch": round(min(alone), 4),
        "further_point_seconds_per_epoch": {name: round(value, 4) for name, value in further.items()},
        "further_point_of_a_lone_student": {name: round(value / min(alone), 3) for name, value in further.items()},
        "finished_sweep_again_seconds": {name: round(min(values), 3) for name, values in again.items()},
    }


def seconds(participant: Peer | Ours) -> float:
    """Duration of a call in seconds."""
    start = time.perf_counter()
    participant.run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
