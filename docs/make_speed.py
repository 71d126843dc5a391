"""Writes docs/speed.md from the results of the benchmarks.

python docs/make_speed.py
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from kdexp.errors import listed
from kdexp.training.both_ways import BOUNDS

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "benchmarks")]

from gpu_parts.page import sections
from speed_facts import (
    PHASES,
    accuracy,
    behind,
    described,
    distances,
    gains,
    load,
    ratio,
    share,
    startup,
    table,
    whole_job,
)

PAGE = ROOT / "docs" / "speed.md"


def measured(name: str) -> dict[str, Any]:
    """Results of a benchmark."""
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def page() -> str:
    """The text of the page."""
    bench, crd, lockstep, precision = (measured(name) for name in ("bench_cpu", "bench_crd_cpu", "lockstep", "precision"))
    crd_gpu = measured("bench_crd_gpu")["kd"]
    kd, rows = bench["kd"], {phase: bench[phase]["rows"] for phase in PHASES}
    return wrapped(f"""# Speed

Speed-up over the loop of the PyTorch tutorial, on the same machine, alternating in the same process (ratio of minimum times;
{kd["device"]}, {kd["threads"]} cores, torch {kd["torch"]}):

{table(rows)}

The loop is that of the PyTorch tutorial "Knowledge Distillation" on CIFAR-10-shaped images: Pillow, two workers, fp32, the
teacher evaluated at every step. *strong* is the same with persistent workers, channels-last memory, bf16 and no `.item()`. *by
hand* is one page of code for this single job with all of kdexp's tricks; the difference to kdexp is the cost of supporting any
network and method, of a store, and of results that survive a power failure. On {described(bench)}; the fewer images, the larger
the share of the store. Medians, memory and counts are in `benchmarks/bench_cpu.json`. {load(rows)}

{behind(rows, bench["teacher"]["peak_gflops"])}

```sh
python benchmarks/bench.py --size cpu    # the table (--turns N), of several phases or one (--phase kd)
python benchmarks/bench.py --size cpu --pair crd --phase kd --images 256 --epochs 4
python benchmarks/lockstep.py            # additional jobs trained together
python benchmarks/gpu.py                 # a page of figures of your GPU
```

These write to `outputs/bench/`; `--output benchmarks/NAME.json` replaces what this page shows. The last one writes to
`outputs/gpu/`; a copy of its `gpu.json` as `benchmarks/gpu_NAME.json` adds a section for that GPU.

{startup(bench)}

**What makes it fast.** Images are tensors on the device: no loader, no workers, crops and flips in bulk. A teacher is evaluated
once per input that repeats: on {rows["kd"]["kdexp"]["teacher_images"]:,} images in ten epochs of distilling, instead of
{rows["kd"]["tutorial"]["teacher_images"]:,}, and on as many in a whole sweep, instead of
{rows["sweep"]["tutorial"]["teacher_images"]:,}. Memory that a step frees is kept for the next (glibc would return it to the
system, which clears it again at every step). 2×2 poolings are vectorised and come before their ReLU. Losses stay on the device
until the epoch ends.

**What is exact.** Everything by default on a CPU: fp32 gives the tutorial loop's losses after twenty steps (tests allow 1e-6).
Options that round differently are named in the table. `fast=true`: channels-last memory and fused optimizers. `precision=bf16`:
autocast with fp32 weights and losses; on CUDA TF32 for what a method computes outside of it. Distance of the mean loss of steps
11 to 20 from the tutorial loop's, relative to it:

{distances(rows)}

{whole_job(rows)}

**On CUDA** the defaults are TF32 in convolutions (`precision=auto`), `fast=auto` and `graph=auto`, which are on there and off
elsewhere: the log and the table say so. `precision=fp32 fast=false graph=false` is the plain loop. With `graph`, the whole step
of all learners is recorded after three plain ones, and replayed at once; cuDNN looks for its quickest algorithms before that,
so two trainings may round differently. With `graph=auto`, the first recorded steps are taken both ways, recorded and plain,
from the same weights, optimizer and random numbers. If losses differ by more than a bound ({bounds("loss")}), or the changes of
weights and statistics do ({bounds("change")}), the learner goes on with plain steps, and a line says by how much; so it does if
its step can't be recorded. `graph=true` trusts the recording, and an error
in it ends the learner. Figures of a GPU are at the end of this page.

**What bf16 changes.** {gains([*rows.values(), crd["kd"]["rows"]])} {accuracy(precision)}

**With augmentation** a teacher must be evaluated on each view, so less can be saved: for
resnet32x4 → resnet8x4 as in the CRD code (crops and flips, batches of {crd["kd"]["batch_size"]}),
{crd["kd"]["epochs"]} epochs of distilling are {ratio(crd["kd"]["rows"], "kdexp")} times as fast as that loop,
{ratio(crd["kd"]["rows"], "kdexp bf16 fast")} times in bf16; the strong loop is
{ratio(crd["kd"]["rows"], "strong")} times as fast. The logits of all 162 views are cached for further epochs, seeds and
jobs of a sweep. On CUDA a few batches are measured first: where running the teacher in every step is
quicker than such a table, it runs there. On one {crd_gpu["device"]} (torch {crd_gpu["torch"]}), {crd_gpu["epochs"]} epochs of
{crd_gpu["images"]:,} images, recording included, are {ratio(crd_gpu["rows"], "kdexp")} times as fast as that loop in plain
steps, {ratio(crd_gpu["rows"], "kdexp bf16 fast graph")} times in recorded bf16 ones (`benchmarks/bench_crd_gpu.json`, a single
turn).

**Jobs trained together** (`hydra/launcher=lockstep`): an additional job costs {share(lockstep, "fp32")} of a single student in
the tutorial's loop (two epochs and its test), {share(lockstep, "bf16 fast")} in bf16. Repeating a finished sweep takes
{lockstep["finished_sweep_again_seconds"]["fp32"]:.1f} s after start-up and evaluates no teacher.

{gpu()}

This page is written by `python docs/make_speed.py` from `benchmarks/*.json`; a test compares them.
""")


def gpu() -> str:
    """What `benchmarks/gpu.py` found on the GPUs of which figures are stored, each in a `benchmarks/gpu_NAME.json`."""
    return "\n\n".join(text for path in sorted((ROOT / "benchmarks").glob("gpu_*.json")) for text in gpu_sections(path))


def gpu_sections(path: Path) -> list[str]:
    """The heading and the sections of one GPU; raises `ValueError` for figures of a rehearsal."""
    results = json.loads(path.read_text())
    if results["rehearsal"]:
        raise ValueError(f"{path}: figures of a rehearsal mean nothing")
    machine, dates = results["machine"], [part["date"] for part in results["parts"].values()]
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "device")
    return [f"## {machine['device']}", f"Measured by `python benchmarks/gpu.py`, {max(dates)}; {facts}.", *sections(results)]


def bounds(of: str) -> str:
    """The largest differences between recorded and plain steps, by precision."""
    return listed(f"{100 * getattr(bound, of):g} % in {precision}" for precision, bound in BOUNDS.items())


def wrapped(text: str) -> str:
    """The text with wrapped paragraphs, without empty ones; tables, code and headings stay as they are."""
    parts = [part.strip("\n") for part in text.split("\n\n") if part.strip()]
    return "\n\n".join(part if part[0] in "|`#" else fill(part) for part in parts).rstrip() + "\n"


def fill(paragraph: str) -> str:
    """Wraps a paragraph at 128 characters."""
    return textwrap.fill(paragraph, 128, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(page())
