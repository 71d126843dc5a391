"""Cost that a distillation method adds to a training step, compared with plain training of the same student.

python benchmarks/methods.py            # writes outputs/bench/methods.json

`--output benchmarks/methods.json` writes what docs/methods.md shows; with `--missing` only of methods that it lacks.

Steps of all methods alternate in one process on one thread, so that other load on the machine affects all equally. The
teacher's outputs are given, since they are the same for every method. Minima over several steps are compared. A method that
learns from unlabelled images has `unlabelled_ratio` times as many of these in a step, next to the batch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from pairs import random_batch, untrained_pair
from results import FOLDER, write

from kdexp.configuration.compose import compose_command
from kdexp.configuration.shipped import conf_dir
from kdexp.data.shape import Shape
from kdexp.distillation.base import Progress

SHAPE = Shape(100, 3, 32)
IMAGES = 50_000
WORDS = ["dataset=cifar100", "teacher=resnet32x4", "student=resnet8x4", "optimizer=sgd"]
START = Progress(epoch=1.0, epochs=240, step=0)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=7, help="of every method, after one to warm up")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=Path, default=FOLDER / "methods.json")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--methods", nargs="+", help="only these, into a file that has the others' ratios")
    only.add_argument("--missing", action="store_true", help="only those that the file lacks")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    methods = sorted(path.stem for path in Path(conf_dir(), "distillation").glob("*.yaml"))
    others = json.loads(asked.output.read_text())["ratios"] if asked.methods or asked.missing else {}
    chosen = asked.methods or [method for method in methods if method not in others]
    seconds = step_seconds(["none", *(method for method in chosen if method != "none")], asked.steps, asked.batch_size)
    ratios = dict(sorted((others | {method: round(value / seconds["none"], 2) for method, value in seconds.items()}).items()))
    command = f"python benchmarks/methods.py --steps {asked.steps} --batch-size {asked.batch_size}"
    told = {"command": command, "pair": " ".join(WORDS[1:3]), "torch": torch.__version__, "threads": 1, "ratios": ratios}
    write(asked.output, told)
    print(json.dumps(told, indent=1))


def step_seconds(methods: list[str], steps: int, batch_size: int) -> dict[str, float]:
    """Seconds of each method's fastest step."""
    found = dict.fromkeys(methods, float("inf"))
    pairs = {}
    for method in methods:
        learner, teacher = untrained_pair(compose_command([*WORDS, f"distillation={method}"]), SHAPE, batch_size, IMAGES)
        learner.train()
        batch = random_batch(SHAPE, batch_size, learner.distiller)
        pairs[method] = learner, batch, teacher(batch) if learner.distiller.uses_teacher else None
    for step in range(steps + 1):
        for method, (learner, batch, said) in pairs.items():
            begin = time.perf_counter()
            learner.step(batch, said, START)
            if learner.failure:
                raise RuntimeError(f"{method}: {learner.failure}")
            if step:
                found[method] = min(found[method], time.perf_counter() - begin)
    return found


if __name__ == "__main__":
    main()
