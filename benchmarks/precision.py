"""Effect of bf16 on real images: the same students trained in fp32 and in bf16, compared by seed.

python benchmarks/precision.py --root FOLDER --teacher WEIGHTS.safetensors    # writes outputs/bench/precision.json

The nets of the PyTorch tutorial on CIFAR-10 (`experiment=cifar10_tutorial distillation=kd`): one given teacher,
so that what differs is the students' training alone. Every network is an ordinary run's, kept in the store under `--outputs`: a
second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import torch
from results import FOLDER, write

from kdexp.tasks.statistics import seed_margin

PRECISIONS = {"fp32": ["precision=fp32"], "bf16": ["precision=bf16", "fast=true"]}
ROLES = ["baseline", "distilled"]


def main() -> None:
    """Trains missing learners, compares, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="where CIFAR-10 lies")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of a trained deepnn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--outputs", type=Path, default=Path("outputs", "precision"))
    parser.add_argument("--output", type=Path, default=FOLDER / "precision.json")
    asked = parser.parse_args()
    words = ["experiment=cifar10_tutorial", "distillation=kd", f"seed={','.join(map(str, asked.seeds))}"]
    given = [f"dataset.root={asked.root}", f"teacher.checkpoint={asked.teacher}", f"output_dir={asked.outputs}"]
    tests = {name: accuracies([*words, *how, *given], asked.outputs) for name, how in PRECISIONS.items()}
    told = {
        "command": "python benchmarks/precision.py --root FOLDER --teacher WEIGHTS.safetensors",
        "runs": [" ".join(["kdexp -m", *words, *how]) for how in PRECISIONS.values()],
        "seeds": asked.seeds,
        "torch": torch.__version__,
        "teacher": tests["fp32"]["teacher"][0],
        "test": {name: {role: found[role] for role in ROLES} for name, found in tests.items()},
        "bf16 - fp32": {role: compared(tests["bf16"][role], tests["fp32"][role]) for role in ROLES},
    }
    write(asked.output, told)
    print(json.dumps(told, indent=1))


def accuracies(words: list[str], outputs: Path) -> dict[str, list[float]]:
    """Test accuracies of a sweep in percent, by role and in the order of the seeds."""
    subprocess.run([sys.executable, "-m", "kdexp", "-m", *words], check=True)
    sweep = max((outputs / "sweeps").iterdir())
    tables = [json.loads(path.read_text())["rows"] for path in sorted(sweep.glob("*/table.json"))]
    return {
        role: [round(100 * row["test_top1"], 2) for rows in tables for row in rows if row["role"] == role]
        for role in ["teacher", *ROLES]
    }


def compared(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean of the paired differences in points, their standard deviation, and half the width of the 95 % interval."""
    points = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    std = stdev(points)
    found = {"mean": fmean(points), "std": std, "margin": seed_margin(std, len(points), 0.95)}
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
