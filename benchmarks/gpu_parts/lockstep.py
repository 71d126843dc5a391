"""Students of the PyTorch tutorial trained together in one loop, compared with a single one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gpu_parts.context import Context, Item, Row
from gpu_parts.training import Size, Trainings, peak_gib

WAYS = ("bf16 fast graph", "tf32 fast graph", "tf32 fast", "tf32", "bf16 fast")
WORDS = ["experiment=cifar10_tutorial", "distillation=kd"]
TINY = Size(32, 2, 2, ("student=resnet8", "teacher=resnet8", "batch_size=8"))


def items(context: Context) -> Iterator[Item]:
    """One student and nine, way after way; of compiled ones a single one, since nine compilations take minutes."""
    trainings = Trainings(context, TINY if context.rehearse else Size(50_000, 391, 4))
    alone: dict[str, float] = {}
    cases = [(way, students) for way in WAYS for students in (1, 9)] + [("tf32 fast compiled", 1)]
    if context.rehearse:
        cases = [("fp32 fast graph", 1), ("fp32 fast graph", 2)]
    for way, students in cases:
        yield Item({"way": way, "students": students}, partial(timed, trainings, way, students, alone))


def timed(trainings: Trainings, way: str, students: int, alone: dict[str, float]) -> Row:
    """One row; the step of a single student is kept in `alone`."""
    peak_gib(trainings.device)
    pace = trainings.pace(WORDS, "distilled", way, students)
    first = alone.setdefault(way, pace.step) if students == 1 else alone.get(way)
    return {
        "ms per step": 1000 * pace.step,
        "s per epoch": pace.in_full / pace.epochs,
        "times one": pace.step / first if first else None,
        "first epoch +s": pace.first,
        "peak GiB": peak_gib(trainings.device),
    }
