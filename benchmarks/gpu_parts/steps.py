"""Milliseconds of a training step of published pairs, by precision and option."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gpu_parts.context import Context, Item, Row
from gpu_parts.training import Size, Trainings, peak_gib

FIRST = "kim2021_wrn_16_4_wrn_16_2"
OTHERS = (
    "crd_resnet32x4_resnet8x4",
    "cifar10_tutorial",
    "crd_vgg13_vgg8",
    "crd_wrn_40_2_wrn_16_2",
    "crd_resnet56_resnet20",
)
WAYS = ("tf32", "bf16 fast graph", "tf32 fast", "tf32 fast graph", "bf16 fast", "fp32", "bf16")
COMPILED = ("bf16 fast compiled", "bf16 fast compiled graph")
ROLES = ("teacher", "baseline", "distilled")
TINY = Size(32, 2, 2, ("student=resnet8", "teacher=resnet8", "batch_size=8"))


def items(context: Context) -> Iterator[Item]:
    """One pair in all ways, then the others in the plainest and the fastest way, then compiled networks, which take longest."""
    trainings = Trainings(context, TINY if context.rehearse else Size(50_000, 150, 3))
    if context.rehearse:
        cases = [(FIRST, role, way) for way in ("fp32", "fp32 fast graph") for role in ("teacher", "distilled")]
    else:
        cases = [(FIRST, role, way) for way in WAYS for role in ROLES]
        cases += [(pair, role, way) for pair in OTHERS for way in WAYS[:2] for role in ("teacher", "distilled")]
        cases += [(FIRST, role, way) for way in COMPILED for role in ("teacher", "distilled")]
    for pair, role, way in cases:
        yield Item({"experiment": pair, "role": role, "way": way}, partial(timed, trainings, pair, role, way))


def timed(trainings: Trainings, pair: str, role: str, way: str) -> Row:
    """One row."""
    peak_gib(trainings.device)
    pace = trainings.pace([f"experiment={pair}", "distillation=kd"], role, way)
    return {
        "ms per step": 1000 * pace.step,
        "of it teacher": None if pace.outputs is None else 1000 * pace.teacher,
        "outputs": pace.outputs,
        "images/s": pace.batch_size / pace.step,
        "in full, min": pace.in_full / 60,
        "first epoch +s": pace.first,
        "peak GiB": peak_gib(trainings.device),
    }
