"""Writes docs/speed.md from what the benchmarks measured.

python docs/make_speed.py
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "speed.md"
PHASES = {
    "teacher": "training the teacher",
    "baseline": "training the student alone",
    "kd": "distilling (`hint`), the teacher given",
    "main": "the whole job, `kdexp …`",
    "sweep": "3 × 3 sweep, the teacher given, `kdexp -m …`",
}
COLUMNS = ("by hand", "kdexp", "kdexp fast", "by hand bf16", "kdexp bf16 fast", "strong")


def measured(name: str) -> dict[str, Any]:
    """A benchmark's file."""
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def page() -> str:
    """The whole page."""
    bench, crd, lockstep, precision = (measured(name) for name in ("bench_cpu", "bench_crd_cpu", "lockstep", "precision"))
    kd, rows = bench["kd"], {phase: told["rows"] for phase, told in bench.items()}
    return wrapped(f"""# Speed

How many times as fast as the loop that people copy, on the same machine in the same process, taking turns (ratio of the least
times; {kd["device"]}, {kd["threads"]} cores, torch {kd["torch"]}):

{table(rows)}

The loop is that of the PyTorch tutorial "Knowledge Distillation" on CIFAR-10-shaped images: Pillow, two workers, fp32, the
teacher asked at every step. *strong* is the same with persistent workers, channels-last memory, bf16 and no `.item()`, and *by
hand* one page of code for this one job with all of kdexp's tricks: what kdexp costs beyond it is the price of any network, any
method, a store, and results that survive a plug pulled. On {described(bench)}; the fewer the images, the more the store weighs.
Medians, memory and what is counted are in `benchmarks/bench_cpu.json`.

```sh
python benchmarks/bench.py --size cpu    # the table (--turns N), of several phases or one (--phase kd)
python benchmarks/bench.py --size cpu --pair crd --phase kd --images 256 --epochs 4
python benchmarks/lockstep.py            # further points side by side
python benchmarks/bench.py --size gpu    # the table at full length on CUDA, not measured yet
```

**What makes it fast.** Images are tensors on the device: no loader, no workers, crops and flips in bulk. A teacher is asked
once about what repeats: {rows["kd"]["kdexp"]["teacher_images"]:,} images in ten epochs of distilling, where the loop asks about
{rows["kd"]["tutorial"]["teacher_images"]:,}, and as many in a whole sweep, where it asks about
{rows["sweep"]["tutorial"]["teacher_images"]:,}. What a step frees stays at hand (glibc would have the system clear it again at
every step). Pools of two by two are vectorised and come before their ReLU. Losses stay on the device until the epoch ends.

**What is exact.** By default all of it: fp32 gives the tutorial loop's losses after twenty steps ({apart(rows, "kdexp")} apart
at most above; tests hold it to 1e-6). Two things round otherwise, are asked for by name and named in the table. `fast=true`:
channels-last memory and fused optimizers. `precision=bf16`: autocast with fp32 weights and losses.

**What bf16 changes.** {accuracy(precision)}

**Where images are augmented** a teacher must be asked about each view, and what is left to save is little: for
resnet32x4 → resnet8x4 in the manner of the CRD code (crops and flips, batches of {crd["kd"]["batch_size"]}),
{crd["kd"]["epochs"]} epochs of distilling are {ratio(crd["kd"]["rows"], "kdexp")} times as fast as that loop,
{ratio(crd["kd"]["rows"], "kdexp bf16 fast")} times in bf16. A table of the 162 views' logits then serves every further
epoch, seed and point of a sweep.

**Sweeps side by side** (`hydra/launcher=lockstep`): a further point costs {share(lockstep, "fp32")} of a lone student in the
tutorial's loop (two epochs of it and its test), {share(lockstep, "bf16 fast")} in bf16. A finished sweep asked for again takes
{lockstep["finished_sweep_again_seconds"]["fp32"]:.1f} s after its start and asks no teacher.

This page is written by `python docs/make_speed.py` from `benchmarks/*.json`; a test holds it to them.
""")


def wrapped(text: str) -> str:
    """The same with its paragraphs filled; tables, code and headings stay."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part[0] in "|`#" else fill(part) for part in parts).rstrip() + "\n"


def fill(paragraph: str) -> str:
    """Lines of up to 128 characters."""
    return textwrap.fill(paragraph, 128, break_long_words=False, break_on_hyphens=False)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Ratios of minima to the tutorial's loop."""
    lines = [("", *COLUMNS), ("---", *["--:"] * len(COLUMNS))]
    lines += [(told, *(f"{ratio(rows[phase], who)}×" for who in COLUMNS)) for phase, told in PHASES.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ratio(rows: dict[str, Any], who: str) -> str:
    """As written: two digits."""
    value = rows[who]["ratio_of_minima"]
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def described(bench: dict[str, Any]) -> str:
    """Sizes of the phases."""
    sizes = ", ".join(f"{phase} {told['epochs']} × {told['turns']}" for phase, told in bench.items())
    return f"{bench['kd']['images']:,} images in batches of {bench['kd']['batch_size']}; epochs × turns: {sizes}"


def apart(rows: dict[str, dict[str, Any]], who: str) -> str:
    """The largest loss difference over the phases."""
    return f"{max(told[who]['loss_difference'] or 0 for told in rows.values()):.0e}"


def share(lockstep: dict[str, Any], precision: str) -> str:
    """Of a lone student."""
    return f"{lockstep['further_point_of_a_lone_student'][precision]:.2f}"


def accuracy(told: dict[str, Any]) -> str:
    """The difference on real images, in sentences."""
    found = told["bf16 - fp32"]
    spread = {
        role: f"{values['mean']:+.2f} points (95 % interval {values['mean'] - values['margin']:+.2f} … "
        f"{values['mean'] + values['margin']:+.2f})"
        for role, values in found.items()
    }
    return (
        f"On real CIFAR-10 (the tutorial's nets, ten epochs, {len(told['seeds'])} seeds, one given teacher; test accuracy, "
        f"bf16 with `fast=true` minus fp32, pairs of one seed): baseline {spread['baseline']}, distilled by `kd` "
        f"{spread['distilled']}. `benchmarks/precision.py` is the command."
    )


if __name__ == "__main__":
    PAGE.write_text(page())
