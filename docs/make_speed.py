"""Writes docs/speed.md from the results of the benchmarks.

python docs/make_speed.py
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from kdexp.errors import listed
from kdexp.training.both_ways import BOUNDS

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
    """Results of a benchmark."""
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def page() -> str:
    """The text of the page."""
    bench, crd, lockstep, precision = (measured(name) for name in ("bench_cpu", "bench_crd_cpu", "lockstep", "precision"))
    kd, rows = bench["kd"], {phase: results["rows"] for phase, results in bench.items()}
    return wrapped(f"""# Speed

Speed-up over the loop of the PyTorch tutorial, on the same machine, alternating in the same process (ratio of minimum times;
{kd["device"]}, {kd["threads"]} cores, torch {kd["torch"]}):

{table(rows)}

The loop is that of the PyTorch tutorial "Knowledge Distillation" on CIFAR-10-shaped images: Pillow, two workers, fp32, the
teacher evaluated at every step. *strong* is the same with persistent workers, channels-last memory, bf16 and no `.item()`. *by
hand* is one page of code for this single job with all of kdexp's tricks; the difference to kdexp is the cost of supporting any
network and method, of a store, and of results that survive a power failure. On {described(bench)}; the fewer images, the larger
the share of the store. Medians, memory and counts are in `benchmarks/bench_cpu.json`.

```sh
python benchmarks/bench.py --size cpu    # the table (--turns N), of several phases or one (--phase kd)
python benchmarks/bench.py --size cpu --pair crd --phase kd --images 256 --epochs 4
python benchmarks/lockstep.py            # additional jobs trained together
python benchmarks/bench.py --size gpu    # the table at full length on CUDA, not measured yet
```

**What makes it fast.** Images are tensors on the device: no loader, no workers, crops and flips in bulk. A teacher is evaluated
once per input that repeats: on {rows["kd"]["kdexp"]["teacher_images"]:,} images in ten epochs of distilling, instead of
{rows["kd"]["tutorial"]["teacher_images"]:,}, and on as many in a whole sweep, instead of
{rows["sweep"]["tutorial"]["teacher_images"]:,}. Memory that a step frees is kept for the next (glibc would return it to the
system, which clears it again at every step). 2×2 poolings are vectorised and come before their ReLU. Losses stay on the device
until the epoch ends.

**What is exact.** Everything by default on a CPU: fp32 gives the tutorial loop's losses after twenty steps (differences of at
most {apart(rows, "kdexp")} above; tests allow 1e-6). Options that round differently are named in the table. `fast=true`:
channels-last memory and fused optimizers. `precision=bf16`: autocast with fp32 weights and losses; on CUDA TF32 for what a
method computes outside of it.

**On CUDA** the defaults are TF32 in convolutions (`precision=auto`), `fast=auto` and `graph=auto`, which are on there and off
elsewhere: the log and the table say so. `precision=fp32 fast=false graph=false` is the plain loop. With `graph`, the whole step
of all learners is recorded after three plain ones, and replayed at once; cuDNN looks for its quickest algorithms before that,
so two trainings may round differently. With `graph=auto`, the first recorded steps are taken both ways, recorded and plain,
from the same weights, optimizer and random numbers. If losses differ by more than a bound ({bounds("loss")}), or the changes of
weights and statistics do ({bounds("change")}), the learner goes on with plain steps, and a line says by how much; so it does if
its step can't be recorded. `graph=true` trusts the recording, and an error
in it ends the learner. None of this was measured on a GPU yet.

**What bf16 changes.** {accuracy(precision)}

**With augmentation** a teacher must be evaluated on each view, so less can be saved: for
resnet32x4 → resnet8x4 as in the CRD code (crops and flips, batches of {crd["kd"]["batch_size"]}),
{crd["kd"]["epochs"]} epochs of distilling are {ratio(crd["kd"]["rows"], "kdexp")} times as fast as that loop,
{ratio(crd["kd"]["rows"], "kdexp bf16 fast")} times in bf16. The logits of all 162 views are cached for further
epochs, seeds and jobs of a sweep. On CUDA a few batches are measured first: where running the teacher in every step is quicker
than such a table, it runs there.

**Jobs trained together** (`hydra/launcher=lockstep`): an additional job costs {share(lockstep, "fp32")} of a single student in
the tutorial's loop (two epochs and its test), {share(lockstep, "bf16 fast")} in bf16. Repeating a finished sweep takes
{lockstep["finished_sweep_again_seconds"]["fp32"]:.1f} s after start-up and evaluates no teacher.

This page is written by `python docs/make_speed.py` from `benchmarks/*.json`; a test compares them.
""")


def wrapped(text: str) -> str:
    """The text with wrapped paragraphs; tables, code and headings stay as they are."""
    parts = text.split("\n\n")
    return "\n\n".join(part if part[0] in "|`#" else fill(part) for part in parts).rstrip() + "\n"


def fill(paragraph: str) -> str:
    """Wraps a paragraph at 128 characters."""
    return textwrap.fill(paragraph, 128, break_long_words=False, break_on_hyphens=False)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Ratios of minimum times to the tutorial's loop."""
    lines = [("", *COLUMNS), ("---", *["--:"] * len(COLUMNS))]
    lines += [(name, *(f"{ratio(rows[phase], who)}×" for who in COLUMNS)) for phase, name in PHASES.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ratio(rows: dict[str, Any], who: str) -> str:
    """The ratio with two digits."""
    value = rows[who]["ratio_of_minima"]
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def described(bench: dict[str, Any]) -> str:
    """Sizes of the phases."""
    sizes = ", ".join(f"{phase} {results['epochs']} × {results['turns']}" for phase, results in bench.items())
    return f"{bench['kd']['images']:,} images in batches of {bench['kd']['batch_size']}; epochs × turns: {sizes}"


def apart(rows: dict[str, dict[str, Any]], who: str) -> str:
    """The largest loss difference over the phases."""
    return f"{max(results[who]['loss_difference'] or 0 for results in rows.values()):.0e}"


def share(lockstep: dict[str, Any], precision: str) -> str:
    """Cost of an additional job as a fraction of a single student's."""
    return f"{lockstep['further_point_of_a_lone_student'][precision]:.2f}"


def bounds(of: str) -> str:
    """The largest differences between recorded and plain steps, by precision."""
    return listed(f"{100 * getattr(bound, of):g} % in {precision}" for precision, bound in BOUNDS.items())


def accuracy(results: dict[str, Any]) -> str:
    """Sentences on the difference in accuracy on real images."""
    found = results["bf16 - fp32"]
    spread = {
        role: f"{values['mean']:+.2f} points (95 % interval {values['mean'] - values['margin']:+.2f} … "
        f"{values['mean'] + values['margin']:+.2f})"
        for role, values in found.items()
    }
    return (
        f"On real CIFAR-10 (the tutorial's nets, ten epochs, {len(results['seeds'])} seeds, one given teacher; test accuracy, "
        f"bf16 with `fast=true` minus fp32, paired by seed): baseline {spread['baseline']}, distilled by `kd` "
        f"{spread['distilled']}. `benchmarks/precision.py` is the command."
    )


if __name__ == "__main__":
    PAGE.write_text(page())
